"""Loops over layers become one operator after another; other loops stay; nothing changes but the form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from planner.core.graph import Graph, Role
from planner.interpret import run_graph
from planner.trace import trace_graph
from planner.trace.rows import split_rows
from planner.trace.unroll import MOST_LAYERS
from tests.trace.cases import normal


def graph_of(fn: Any, params: Any, batch: Any) -> Graph:
    graph = split_rows(trace_graph(fn, (params, batch), (Role.PARAM, Role.BATCH)))
    graph.check()
    return graph


def names(graph: Graph) -> list[str]:
    return [op.primitive for op in graph.ops]


def layers(w: Any, x: Any) -> Any:
    return lax.scan(lambda x, w: (jnp.tanh(x @ w), x.sum(-1)), x, w)


def test_every_row_is_an_input_of_its_own() -> None:
    graph = graph_of(layers, normal(0, 3, 4, 4), normal(1, 2, 4))
    assert [(i.path, i.row) for i in graph.inputs_of(Role.PARAM)] == [("", 0), ("", 1), ("", 2)]
    assert names(graph).count("dot_general") == 3 and "scan" not in names(graph) and "slice" not in names(graph)


@pytest.mark.parametrize(("fn", "shape", "stays"), [
    (lambda w, x: lax.scan(lambda c, x: (jnp.tanh(c @ w + x), None), x[0], x)[0], (4, 4), True),  # over time
    (lambda w, x: lax.scan(lambda c, s: (c * s, None), x, w)[0], (3,), True),  # rows are scalars
    (layers, (MOST_LAYERS + 1, 4, 4), True),
    (layers, (3, 4, 4), False),
    (lambda w, x: layers(w.astype(jnp.bfloat16), x.astype(jnp.bfloat16)), (3, 4, 4), False),
    (jax.jit(layers), (3, 4, 4), False),
    (lambda w, x: layers(w.reshape(3, 4, 4), x), (12, 4), False),
])
def test_only_loops_over_parameter_rows_are_unrolled(fn: Any, shape: tuple[int, ...], *, stays: bool) -> None:
    graph = graph_of(fn, jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct((2, 4), jnp.float32))
    assert ("scan" in names(graph)) is stays


def test_a_leaf_that_is_also_read_whole_is_not_split() -> None:
    graph = graph_of(lambda w, x: layers(w, x)[0] + w.sum(), normal(0, 3, 4, 4), normal(1, 2, 4))
    assert [i.row for i in graph.inputs_of(Role.PARAM)] == [None]


def test_rows_that_nothing_reads_are_inputs_too() -> None:
    graph = graph_of(lambda w, x: x @ w[0] @ w[2], normal(0, 4, 4, 4), normal(1, 2, 4))
    assert [i.row for i in graph.inputs_of(Role.PARAM)] == [0, 1, 2, 3]


def test_casts_are_done_row_by_row() -> None:
    graph = graph_of(lambda w, x: layers(w.astype(jnp.bfloat16), x.astype(jnp.bfloat16))[0], normal(0, 3, 4, 4),
                     normal(1, 2, 4))
    casts = [graph.values[op.results[0]].shape for op in graph.ops if op.primitive == "convert_element_type"]
    assert sorted(casts) == [(2, 4), (4, 4), (4, 4), (4, 4)]


def test_a_second_loop_reads_the_rows_of_the_first_directly() -> None:
    def twice(w: Any, x: Any) -> Any:
        x, kept = lax.scan(lambda x, w: (jnp.tanh(x @ w), x), x, w)
        return lax.scan(lambda y, wk: (jnp.tanh(y @ wk[0] + wk[1]), None), x, (w, kept), reverse=True)[0]
    graph = graph_of(twice, normal(0, 3, 4, 4), normal(1, 2, 4))
    assert set(names(graph)) == {"dot_general", "tanh", "add"}


@settings(max_examples=15)
@given(length=st.integers(1, 4), width=st.integers(1, 3), reverse=st.booleans(), carry=st.booleans(),
       consts=st.booleans())
def test_unrolled_equals_scanned(length: int, width: int, *, reverse: bool, carry: bool, consts: bool) -> None:
    w, x = normal(0, length, width, width), normal(1, 2, width)

    def fn(w: Any, x: Any) -> Any:
        def step(c: Any, rows: Any) -> Any:
            c = c @ rows[0] + rows[1] + (w.sum() if consts else 0)
            return (c if carry else c * 0), (c, rows[1])
        return lax.scan(step, x, (w, jnp.arange(length, dtype=x.dtype)), reverse=reverse)

    graph = graph_of(fn, w, x)
    assert "scan" not in names(graph)
    split = [w] if consts else list(w)
    with jax.disable_jit():
        want = jax.tree.leaves(fn(w, x))
    for got, ref in zip(run_graph(graph, [*split, x]), want, strict=True):
        np.testing.assert_allclose(got, ref, rtol=1e-5, atol=1e-6)
