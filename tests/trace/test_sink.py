"""Casts at the top of a loss belong to the layers that use them."""

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Role
from planner.interpret import run_graph
from planner.trace import trace_graph
from planner.trace.sink import sink


def loss(params, x):
    low = [p.astype(jnp.bfloat16) for p in params]
    for p in low:
        x = jnp.tanh(x @ p.astype(jnp.float32))
    return x.sum()


def traced():
    args = ([jax.ShapeDtypeStruct((8, 8), jnp.float32)] * 4, jax.ShapeDtypeStruct((2, 8), jnp.float32))
    return trace_graph(loss, args, (Role.PARAM, Role.BATCH))


def test_each_cast_stands_just_before_its_reader():
    graph = sink(traced())
    graph.check()
    dots = [n for n, op in enumerate(graph.ops) if op.primitive == "dot_general"]
    for n in dots:
        assert [op.primitive for op in graph.ops[n - 2: n]] == ["convert_element_type"] * 2


def test_the_result_is_the_same_and_sinking_again_changes_nothing():
    before, after = traced(), sink(traced())
    assert sorted(op.results for op in before.ops) == sorted(op.results for op in after.ops)
    assert [op.results for op in sink(after).ops] == [op.results for op in after.ops]
    rng = np.random.default_rng(0)
    inputs = [jnp.asarray(rng.normal(size=before.values[i.value].shape), jnp.float32) for i in before.inputs]
    np.testing.assert_array_equal(run_graph(before, inputs)[0], run_graph(after, inputs)[0])
