"""Which dimensions of tables, indices and updates may be sharded."""

from typing import Any

import jax
import jax.numpy as jnp

from planner.core.spec import FactorKind, OpRule
from tests.rules.harness import Case
from tests.rules.instances import INSTANCES, f32, i32

PASS, REDUCE = FactorKind.PASS, FactorKind.REDUCE


def rule(primitive: str, n: int) -> OpRule:
    fn, args = INSTANCES[primitive][n]
    return Case.of(fn, args, primitive).rule


def kinds(found: OpRule) -> list[FactorKind]:
    return [f.kind for f in found.factors]


def test_an_embedding_reduces_over_the_vocabulary():
    found = rule("gather", 1)
    assert found.operands == ((0, 1), (2, 3, None))
    assert found.results == ((2, 3, 1),)
    assert kinds(found) == [REDUCE, PASS, PASS, PASS]


def test_the_gradient_of_an_embedding_reduces_over_the_tokens():
    found = rule("scatter-add", 1)
    assert found.operands == ((0, 1), (2, 3, None), (2, 3, 1))
    assert found.results == ((0, 1),)
    assert kinds(found) == [PASS, PASS, REDUCE, REDUCE]
    assert found.combine == "sum"


def test_take_along_axis_passes_its_rows_and_reduces_over_the_choices():
    found = rule("gather", 4)
    assert found.operands[0] == (0, 1)
    assert found.results[0] == (0, 2)
    assert kinds(found) == [PASS, REDUCE, PASS]


def test_a_scatter_that_overwrites_cannot_combine():
    found = rule("scatter", 0)
    assert found.operands == ((0, 1), (None, None), (None, 1))
    assert kinds(found) == [PASS, PASS]


def test_extremes_and_products_combine_by_their_own_kind():
    combine = {name: rule(name, 0).combine for name in ("scatter-min", "scatter-max", "scatter-mul")}
    assert combine == {"scatter-min": "min", "scatter-max": "max", "scatter-mul": "prod"}


def test_a_window_that_is_not_the_whole_dimension_stays_whole():
    def rows(x: Any, i: Any) -> Any:
        return jax.vmap(lambda j: jax.lax.dynamic_slice(x, (j, 0), (2, 8)))(i)

    found = Case.of(rows, (f32(6, 8), i32(4)), "gather").rule
    assert found.operands[0] == (None, 0)
    assert found.results[0] == (1, None, 0)


def test_the_labels_of_a_cross_entropy_pick_from_sharded_logits():
    def loss(logits: Any, labels: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()

    found = Case.of(loss, (f32(4, 8), i32(4)), "gather").rule
    assert found.operands[0] == (0, 1)
    assert kinds(found) == [PASS, REDUCE]
