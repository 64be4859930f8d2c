"""Reshape's factors against brute force: cut the operand where the rule says, reshape the pieces, join them again."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from planner.core.graph import Graph, Op
from planner.core.spec import OpRule
from planner.rules import rule_of
from planner.rules.shape import reshape_groups
from tests.rules.harness import graph_of
from tests.rules.instances import f32

SIZES = st.integers(1, 6)


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes of as many elements: each made by merging neighbours of one list of factors, with ones thrown in."""
    primes = draw(st.lists(st.sampled_from([2, 2, 3, 4]), min_size=1, max_size=6))
    shapes = []
    for _ in range(2):
        shape: list[int] = []
        for n, p in enumerate(primes):
            if n and draw(st.booleans()):
                shape[-1] *= p
            else:
                shape.append(p)
        for _ in range(draw(st.integers(0, 2))):
            shape.insert(draw(st.integers(0, len(shape))), 1)
        shapes.append(tuple(shape))
    return shapes[0], shapes[1]


def rule_for(before: tuple[int, ...], after: tuple[int, ...]) -> OpRule:
    graph = graph_of(lambda x: x.reshape(after), f32(*before))
    if not graph.ops:  # JAX leaves out a reshape to the same shape
        same = Op("reshape", (0,), (0,), {"new_sizes": after, "dimensions": None})  # type: ignore[arg-type]
        return rule_of(Graph(graph.values, (), (), ()), same)
    return rule_of(graph, graph.ops[0])


@given(reshapes())
def test_sharded_pieces_reshape_to_pieces_of_the_result(shapes: tuple[tuple[int, ...], tuple[int, ...]]):
    before, after = shapes
    rule = rule_for(before, after)
    x = np.arange(np.prod(before)).reshape(before)
    for number, factor in enumerate(rule.factors):
        d, e = rule.operands[0].index(number), rule.results[0].index(number)
        for shards in range(2, factor.size + 1):
            if before[d] % shards or after[e] % shards:
                continue
            piece_shape = tuple(size // shards if n == e else size for n, size in enumerate(after))
            pieces = [piece.reshape(piece_shape) for piece in np.split(x, shards, axis=d)]
            np.testing.assert_array_equal(np.concatenate(pieces, axis=e), x.reshape(after))


@given(reshapes())
def test_groups_cover_both_shapes_with_equal_products(shapes: tuple[tuple[int, ...], tuple[int, ...]]):
    before, after = shapes
    groups = list(reshape_groups(before, after))
    assert [d for run, _ in groups for d in run] == [d for d, size in enumerate(before) if size != 1]
    assert [e for _, run in groups for e in run] == [e for e, size in enumerate(after) if size != 1]
    for run, other in groups:
        assert np.prod([before[d] for d in run]) == np.prod([after[e] for e in other])


@given(st.lists(SIZES, min_size=1, max_size=5))
def test_a_reshape_to_the_same_shape_passes_every_dimension(shape: list[int]):
    rule = rule_for(tuple(shape), tuple(shape))
    assert rule.operands[0] == rule.results[0]
    assert len(rule.factors) == sum(1 for size in shape if size > 1)


def test_heads_split_and_merge_bind_the_major_dimension():
    assert rule_for((4, 6, 8), (4, 6, 2, 4)).results == ((0, 1, 2, None),)
    merge = rule_for((4, 6, 2, 4), (4, 6, 8))
    assert (merge.operands, merge.results) == (((0, 1, 2, None),), ((0, 1, 2),))
    assert [f.size for f in merge.factors] == [4, 6, 2]


def test_tokens_regroup_by_the_major_dimensions():
    rule = rule_for((4, 6, 8), (2, 12, 8))
    assert (rule.operands, rule.results) == (((0, None, 1),), ((0, None, 1),))
    assert [f.size for f in rule.factors] == [2, 8]


def test_a_broadcast_makes_factors_of_its_own():
    graph = graph_of(lambda x: x[:, None, :].repeat(1, 0) + np.zeros((4, 6, 8), np.float32), f32(4, 8))
    op = next(op for op in graph.ops if op.primitive == "broadcast_in_dim")
    rule = rule_of(graph, op)
    assert rule.operands[0] == (0, 1)
    assert rule.results[0] == (0, None, 1)
