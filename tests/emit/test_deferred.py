"""Deferred gradients: the compiled loop over microbatches has no gradient all-reduce, and the numbers stay."""

import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.emit.payloads import Mapped
from planner.model import Model
from planner.runtime import compile_plan
from tests.runtime import models
from tests.runtime.harness import assert_same_training
from tests.runtime.plans import Design, record_of

MATRIX = re.compile(r"f32\[\d+,\d+\]")


def matrix_all_reduces(text: str) -> Counter:
    """Where matrices are all-reduced: `"entry"` or `"loop"`, with the number of matrices."""
    found, place = Counter(), ""
    for line in text.splitlines():
        if line.endswith("{"):
            place = "entry" if line.startswith("ENTRY") else "loop"
        if " all-reduce(" in line or " all-reduce-start(" in line:
            found[place] += len(MATRIX.findall(line.split(" all-reduce", 1)[0]))
    return +found


def compiled(model, design):
    step, state = compile_plan(record_of(model, design), model, jax.devices())
    return step, step.lower(state, model.batch).compile().as_text()


def test_gradients_are_combined_outside_the_loop():
    """Four weight matrices, data parallel over 8 devices, 2 microbatches."""
    step, text = compiled(models.mlp(), Design(microbatches=2, deferred=True))
    assert matrix_all_reduces(text) == {"entry": 4}
    assert step.warnings == ()


def test_without_deferral_they_are_combined_in_the_loop():
    assert matrix_all_reduces(compiled(models.mlp(), Design(microbatches=2))[1]) == {"loop": 4}


@pytest.mark.parametrize("design", [Design(microbatches=4, deferred=True, mesh_shape=(2, 2), batch_axes=(0, 1)),
                                    Design(stages=2, mesh_shape=(4,), microbatches=4, deferred=True)])
@pytest.mark.parametrize("build", [models.tied, models.mlp])
def test_numbers_stay(build, design):
    """Embedding lookups (scatter-add), biases (reduce_sum) and matrices; tied weights add parts of two stages."""
    assert_same_training(build, design)


def test_what_cannot_wait_is_reported():
    """A convolution's gradient is not split by device: it is combined in the loop, and the step says so."""
    def loss(params, batch):
        return jnp.mean(jax.lax.conv(batch, params, (1, 1), "SAME") ** 2)

    model = Model(loss, jnp.ones((4, 3, 3, 3)), jnp.ones((16, 3, 4, 4)), optax.sgd(0.1), name="conv")
    step, _ = compile_plan(record_of(model, Design(microbatches=2, deferred=True)), model, jax.devices())
    assert "1 gradients are combined in every microbatch" in step.warnings[0]


class Product:
    """`[n, a] · [n, b] -> [a, b]`."""

    def bind(self, operands):
        return [jnp.einsum("na,nb->ab", *operands)]


@given(parts=st.sampled_from([1, 2, 3, 6]), seed=st.integers(0, 3))
def test_parts_add_up_to_the_whole(parts, seed):
    x, y = np.random.default_rng(seed).standard_normal((2, 6, 4)).astype(np.float32)
    (split,) = Mapped(Product(), ((0, 0),), (parts,)).bind([x, y])
    assert split.shape == (parts, 4, 4)
    np.testing.assert_allclose(split.sum(0), x.T @ y, atol=1e-5)


def test_two_dimensions_cut_one_inside_the_other():
    x = np.arange(2 * 6 * 4, dtype=np.float32).reshape(4, 6, 2)

    class Sum:
        def bind(self, operands):
            return [operands[0].sum((0, 1))]

    (split,) = Mapped(Sum(), ((0,), (1,)), (2, 3)).bind([x])
    np.testing.assert_array_equal(split, x.reshape(2, 2, 3, 2, 2).sum((1, 3)))
