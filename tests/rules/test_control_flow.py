"""What passes through loops, branches and calls."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from planner.core.graph import Graph, Op
from planner.rules import rule_of
from tests.rules.harness import find_op, graph_of
from tests.rules.instances import INSTANCES, f32, i32


def places(graph: Graph, op: Op) -> list[tuple[int, list[tuple[int, int]], list[tuple[int, int]]]]:
    """Per factor: its size, and its (operand, dimension) and (result, dimension) places."""
    rule = rule_of(graph, op)
    return [
        (factor.size, *([(n, d) for n, b in enumerate(side) for d, f in enumerate(b) if f == number]
                        for side in (rule.operands, rule.results)))
        for number, factor in enumerate(rule.factors)
    ]  # fmt: skip


def of(fn: Any, args: tuple[Any, ...], primitive: str) -> list[Any]:
    return places(*find_op(graph_of(fn, *args), primitive))


def test_the_batch_of_an_lstm_passes_and_nothing_else():
    fn, args = INSTANCES["scan"][0]
    graph, op = find_op(graph_of(fn, *args), "scan")
    batch = [(n, d) for n, o in enumerate(op.operands) if isinstance(o, int)
             for d, size in enumerate(graph.values[o].shape) if size == 4]
    assert places(graph, op) == [(4, batch, [(0, 0), (1, 0), (2, 1)])]


def test_the_length_of_a_scan_stays_whole():
    found = of(lambda x: lax.scan(lambda c, x_t: (c + 1.0, x_t * 2), 0.0, x), (f32(6, 4),), "scan")
    assert found == [(4, [(1, 1)], [(1, 1)])]


def test_a_carry_that_is_transposed_every_step_blocks_both_dimensions():
    assert of(lambda x: lax.scan(lambda c, _: (c.T, None), x, None, length=3)[0], (f32(4, 4),), "scan") == []


def test_carries_that_change_places_share_one_factor():
    def swap(a: Any, b: Any) -> Any:
        return lax.scan(lambda c, _: ((c[1], c[0]), None), (a, b), None, length=3)[0]

    assert of(swap, (f32(4), f32(4)), "scan") == [(4, [(0, 0), (1, 0)], [(0, 0), (1, 0)])]


def test_a_product_with_itself_blocks_the_dimension_it_would_cut_twice():
    def gram(x: Any, w: Any) -> Any:
        return lax.scan(lambda c, _: (c + w @ w.T, None), x, None, length=2)[0]

    assert of(gram, (f32(4, 4), f32(4, 6)), "scan") == []


def test_a_while_loop_that_tests_its_carry_keeps_it_whole():
    def fn(x: Any) -> Any:
        return lax.while_loop(lambda c: jnp.sum(c) < 3.0, lambda c: c + 1.0, x)

    assert of(fn, (f32(4, 6),), "while") == []


def test_a_while_loop_that_counts_passes_its_batch():
    fn, args = INSTANCES["while"][0]
    graph, op = find_op(graph_of(fn, *args), "while")
    ((size, operands, results),) = places(graph, op)
    assert size == 4
    assert results == [(len(op.results) - 1, 0)]
    assert operands == [(len(op.operands) - 1, 0)]


def test_branches_must_agree():
    def agree(p: Any, x: Any) -> Any:
        return lax.cond(p, lambda x: x * 2.0, lambda x: -x, x)

    def disagree(p: Any, x: Any) -> Any:
        return lax.cond(p, lambda x: x * 2.0, lambda x: jnp.cumsum(x, 1), x)

    args = (jax.ShapeDtypeStruct((), bool), f32(4, 6))
    assert [size for size, _, _ in of(agree, args, "cond")] == [4, 6]
    assert [size for size, _, _ in of(disagree, args, "cond")] == [4]


def test_a_reshape_inside_a_body_keeps_its_dimension_whole():
    def split(x: Any) -> Any:
        return lax.scan(lambda c, _: (c.reshape(4, 2, 3).sum(2).repeat(3, 1), None), x, None, length=2)[0]

    assert [size for size, _, _ in of(split, (f32(4, 6),), "scan")] == [4]


def test_a_checkpointed_block_passes_its_batch():
    found = of(jax.checkpoint(lambda x, w: jnp.tanh(x @ w)), (f32(4, 6), f32(6, 6)), "checkpoint")
    assert [(size, results) for size, _, results in found] == [(4, [(0, 0)]), (6, [(0, 1)])]


def test_lookups_inside_a_loop_pass_the_table_batch():
    def fn(table: Any, ids: Any) -> Any:
        return lax.scan(lambda c, i: (c, jax.vmap(lambda row, j: row[j])(c, i)), table, ids)[1]

    found = of(fn, (f32(4, 6), i32(5, 4)), "scan")
    assert [(size, results) for size, _, results in found] == [(4, [(0, 1)])]
