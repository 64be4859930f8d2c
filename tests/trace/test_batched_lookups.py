"""Lookups that count through the rows become batched ones, and find the same."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import planner
from planner.core.graph import Graph, Role
from planner.interpret import run_graph
from planner.model import Model
from planner.program_index import batch_dimensions, index_program
from planner.rules import rule_of
from planner.trace import trace_graph, trace_program
from planner.trace.batched_lookups import with_batched_lookups
from tests.integration.hlo import collectives

F32, I32 = jnp.float32, jnp.int32
ROWS, TOKENS, CLASSES = 8, 4, 6


def rows(x: Any, y: Any) -> Any:
    return x[jnp.arange(ROWS), 0, y[:, 0]]


def rows_known_early(x: Any, y: Any) -> Any:
    return x[np.arange(ROWS), 0, y[:, 0]]


def tokens(x: Any, y: Any) -> Any:
    return x[jnp.arange(ROWS)[:, None], jnp.arange(TOKENS)[None], y]


def in_another_order(x: Any, y: Any) -> Any:
    return x[jnp.arange(ROWS)[None], jnp.arange(TOKENS)[:, None], y.T]


def clipped(x: Any, y: Any) -> Any:
    return x.at[jnp.arange(ROWS), 1, 3 * y[:, 1]].get(mode="clip")


def filled(x: Any, y: Any) -> Any:
    return x.at[jnp.arange(ROWS)[:, None], jnp.arange(TOKENS), 3 * y].get(mode="fill", fill_value=7.0)


def with_a_window(x: Any, y: Any) -> Any:
    return x[jnp.arange(ROWS), y[:, 0] % TOKENS]


def counted_narrowly(x: Any, y: Any) -> Any:
    return x[jnp.arange(ROWS, dtype=jnp.uint8), 0, y[:, 0].astype(jnp.uint8)]


def added(x: Any, y: Any) -> Any:
    return x.at[jnp.arange(ROWS)[:, None], jnp.arange(TOKENS), y].add(2.0)


def replaced(x: Any, y: Any) -> Any:
    return x.at[jnp.arange(ROWS), 0, y[:, 0]].set(5.0)


BATCHED = (rows, rows_known_early, tokens, in_another_order, clipped, filled, with_a_window, counted_narrowly, added,
           replaced)


def shifted(x: Any, y: Any) -> Any:
    return x[jnp.arange(ROWS) - 1, 0, y[:, 0]]


def strided(x: Any, y: Any) -> Any:
    return x[jnp.arange(0, ROWS, 2), 0, y[::2, 0]]


def half_of_the_rows(x: Any, y: Any) -> Any:
    return x[jnp.arange(ROWS // 2), 0, y[:ROWS // 2, 0]]


def backwards(x: Any, y: Any) -> Any:
    return x[jnp.arange(ROWS)[::-1], 0, y[:, 0]]


def counted_twice(x: Any, y: Any) -> Any:
    return x[:TOKENS, :, :][jnp.arange(TOKENS), jnp.arange(TOKENS), y[:TOKENS, 0]]


def wrapped_around(x: Any, y: Any) -> Any:
    counter = (jnp.arange(ROWS) * 64).astype(jnp.int8).astype(I32) // 64
    return x[counter, 0, y[:, 0]]


def nothing_left_to_look_up(x: Any, y: Any) -> Any:
    return x[jnp.arange(ROWS)[:, None], jnp.arange(TOKENS)] + y[..., None]


def without_counter(x: Any, y: Any) -> Any:
    return x[y[:, 0], y[:, 1] % TOKENS]


OTHERS = (shifted, strided, half_of_the_rows, backwards, wrapped_around, nothing_left_to_look_up, without_counter)


def traced(fn: Any) -> Graph:
    args = (jax.ShapeDtypeStruct((ROWS, TOKENS, CLASSES), F32), jax.ShapeDtypeStruct((ROWS, TOKENS), I32))
    return trace_graph(fn, args, (Role.BATCH, Role.BATCH))


def batching(graph: Graph) -> list[tuple[int, ...]]:
    return [op.params["dimension_numbers"].operand_batching_dims for op in graph.ops
            if op.primitive == "gather" or op.primitive.startswith("scatter")]


def given() -> list[Any]:
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(ROWS, TOKENS, CLASSES)), F32),
            jnp.asarray(rng.integers(0, CLASSES, (ROWS, TOKENS)), I32)]


@pytest.mark.parametrize("fn", [*BATCHED, *OTHERS, counted_twice], ids=lambda f: f.__name__)
def test_what_is_found_stays_the_same(fn):
    before = traced(fn)
    after = with_batched_lookups(before)
    after.check()
    np.testing.assert_array_equal(run_graph(before, given())[0], run_graph(after, given())[0])


@pytest.mark.parametrize("fn", BATCHED, ids=lambda f: f.__name__)
def test_a_counter_becomes_a_batching_dimension(fn):
    both = fn in (tokens, in_another_order, filled, added)
    before = traced(fn)
    assert batching(before) == [()]
    assert batching(with_batched_lookups(before)) == [(0, 1) if both else (0,)]


@pytest.mark.parametrize("fn", OTHERS, ids=lambda f: f.__name__)
def test_what_is_no_counter_of_all_rows_stays_an_index(fn):
    before = traced(fn)
    assert with_batched_lookups(before) is before


def test_one_counter_batches_one_dimension_only():
    assert batching(with_batched_lookups(traced(counted_twice))) == [(0,)]


def classifier() -> Model:
    """Cross entropy as many write it."""

    def loss(params: Any, batch: Any) -> Any:
        logits = jax.nn.log_softmax(jnp.tanh(batch["x"] @ params["up"]) @ params["down"])
        return -logits[jnp.arange(logits.shape[0]), batch["y"]].mean()

    params = {"up": jax.random.normal(jax.random.key(0), (16, 32)) / 4,
              "down": jax.random.normal(jax.random.key(1), (32, 8)) / 5}
    batch = {"x": jax.random.normal(jax.random.key(2), (4096, 16)),
             "y": jax.random.randint(jax.random.key(3), (4096,), 0, 8)}
    return Model(loss, params, batch, optax.sgd(0.1), name="classifier")


def test_the_batch_passes_through_lookup_and_gradient():
    program = trace_program(classifier())
    index = index_program(program)
    looked_up = [op for op in program.micro.ops if op.primitive in ("gather", "scatter-add")]
    assert len(looked_up) == 2
    for op in looked_up:
        rule = rule_of(program.micro, op)
        assert rule.operands[0][0] == rule.results[0][0] is not None
        assert (op.results[0], 0) in batch_dimensions(program.micro, index.rules)


@pytest.mark.parametrize("pins", [{"recipe": "data"}, {"stages": 2, "microbatches": 2}], ids=["data", "pipeline"])
def test_an_executed_plan_equals_one_device(pins):
    model = classifier()
    plan = planner.plan(model, planner.cluster("cpu-8"), **pins)
    report = plan.check(model, jax.devices(), steps=3)
    assert report.passed, str(report)


def test_data_parallel_lookups_need_no_communication():
    """Before, every device had all indices, and what was found was summed."""
    model = classifier()
    plan = planner.plan(model, planner.cluster("cpu-8"), recipe="data", stages=1, microbatches=1)
    step, state = plan.compile(model, jax.devices())
    program = collectives(step.lower(state, model.batch).compile().as_text())
    assert [(c.kind, c.bytes) for c in program] == [("all-reduce", 4 * (16 * 32 + 32 * 8 + 1))]
