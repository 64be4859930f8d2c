"""Resharding: steps by hand, laws, and the table against single pairs. `test_reshard_xla.py` asks the compiler."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.graph import Value
from planner.core.hardware import Link, LogicalMesh, Submesh
from planner.core.spec import Spec, axes_of, replicated, shard_count
from planner.costs.collectives import (
    ALL_GATHER,
    ALL_REDUCE,
    ALL_TO_ALL,
    PERMUTE,
    REDUCE_SCATTER,
    all_gather_s,
    all_reduce_s,
)
from planner.costs.resharding import moved_bytes, reshard_s, reshard_steps, reshard_table
from tests.costs.machines import all_specs, mesh

SHAPE, ITEMSIZE = (64, 64), 4
TOTAL = 64 * 64 * 4
GRID = mesh(2, 4)
SPECS = all_specs(2, 2)


def steps(src: Spec, dst: Spec, partial: frozenset[int] = frozenset()) -> list[tuple[str, tuple[int, ...], int]]:
    return [(s.kind, s.axes, s.bytes) for s in reshard_steps(SHAPE, ITEMSIZE, src, dst, GRID, partial=partial)]


@pytest.mark.parametrize(("src", "dst", "expected"), [
    # Nothing to do, or every device drops what others keep.
    (((0,), (1,)), ((0,), (1,)), []),
    (((), ()), ((0,), (1,)), []),
    (((0,), ()), ((0, 1), ()), []),
    # An axis is dropped: gathered within what remains sharded.
    (((0,), ()), ((), ()), [(ALL_GATHER, (0,), TOTAL)]),
    (((0, 1), ()), ((0,), ()), [(ALL_GATHER, (1,), TOTAL // 2)]),
    (((0,), (1,)), ((0,), ()), [(ALL_GATHER, (1,), TOTAL // 2)]),
    (((0, 1), ()), ((), ()), [(ALL_GATHER, (0, 1), TOTAL)]),
    # An axis changes dimension.
    (((0,), ()), ((), (0,)), [(ALL_TO_ALL, (0,), TOTAL)]),
    (((0, 1), ()), ((0,), (1,)), [(ALL_TO_ALL, (1,), TOTAL // 2)]),
    # Only the order of devices changes: each sends its shard.
    (((0, 1), ()), ((1, 0), ()), [(PERMUTE, (0, 1), TOTAL // 8)]),
    # Another axis shards the dimension more finely: each device fetches its new shard.
    (((0,), ()), ((1,), ()), [(PERMUTE, (0, 1), TOTAL // 4)]),
    # The major axis of a dimension goes: devices are reordered first.
    (((0, 1), ()), ((1,), ()), [(PERMUTE, (0, 1), TOTAL // 8), (ALL_GATHER, (0,), TOTAL // 4)]),
    # No dimension stays sharded and an axis is dropped: the partitioner gathers all of it.
    (((0, 1), ()), ((), (0,)), [(ALL_GATHER, (0, 1), TOTAL)]),
])
def test_steps_by_hand(src: Spec, dst: Spec, expected: list[tuple[str, tuple[int, ...], int]]) -> None:
    assert steps(src, dst) == expected


@pytest.mark.parametrize(("partial", "src", "dst", "expected"), [
    ({0}, ((), ()), ((), ()), [(ALL_REDUCE, (0,), TOTAL)]),
    ({0}, ((), (1,)), ((), (1,)), [(ALL_REDUCE, (0,), TOTAL // 4)]),
    ({0}, ((), ()), ((0,), ()), [(REDUCE_SCATTER, (0,), TOTAL)]),
    ({0}, ((), (1,)), ((0,), (1,)), [(REDUCE_SCATTER, (0,), TOTAL // 4)]),
    ({0, 1}, ((), ()), ((), ()), [(ALL_REDUCE, (0, 1), TOTAL)]),
    # Scattered where the result is sharded, and only the shard is summed over the other axis.
    ({0, 1}, ((), ()), ((0,), ()), [(REDUCE_SCATTER, (0,), TOTAL), (ALL_REDUCE, (1,), TOTAL // 2)]),
    ({1}, ((0,), ()), ((), ()), [(ALL_REDUCE, (1,), TOTAL // 2), (ALL_GATHER, (0,), TOTAL)]),
])
def test_pending_sums_by_hand(partial: set[int], src: Spec, dst: Spec,
                              expected: list[tuple[str, tuple[int, ...], int]]) -> None:
    assert steps(src, dst, frozenset(partial)) == expected


def test_where_reduce_scatter_is_an_all_reduce_the_steps_say_so() -> None:
    cpu = mesh(2, 4, as_all_reduce=True)
    found = reshard_steps(SHAPE, ITEMSIZE, ((), ()), ((0,), (1,)), cpu, partial=frozenset({0, 1}))
    assert [(s.kind, s.axes, s.bytes) for s in found] == [(ALL_REDUCE, (0, 1), TOTAL)]


def test_time_is_the_sum_of_the_steps() -> None:
    time = reshard_s(SHAPE, ITEMSIZE, ((0,), ()), ((), ()), GRID, partial=frozenset({1}))
    assert time == pytest.approx(all_reduce_s(TOTAL / 2, (1,), GRID) + all_gather_s(TOTAL, (0,), GRID))
    found = reshard_steps(SHAPE, ITEMSIZE, ((0,), ()), ((), ()), GRID, partial=frozenset({1}))
    assert time == pytest.approx(sum(s.time_s for s in found))


def holds_already(src: Spec, dst: Spec, mesh_shape: tuple[int, ...]) -> bool:
    """By definition: whether every device has, of every dimension, all indices that it shall have."""
    def part(axes: tuple[int, ...], device: tuple[int, ...], length: int) -> set[int]:
        block, count = 0, 1
        for a in axes:
            block, count = block * mesh_shape[a] + device[a], count * mesh_shape[a]
        return set(range(block * length // count, (block + 1) * length // count))

    return all(part(d, device, 64) <= part(s, device, 64)
               for device in itertools.product(*map(range, mesh_shape)) for s, d in zip(src, dst, strict=True))


def test_zero_exactly_if_nothing_has_to_move() -> None:
    for shape in ((2, 4), (1, 8)):
        for src, dst in itertools.product(SPECS, SPECS):
            time = reshard_s(SHAPE, ITEMSIZE, src, dst, mesh(*shape))
            assert (time == 0) == holds_already(src, dst, shape), (shape, src, dst)


@pytest.mark.parametrize("rank", [2, 3])
def test_no_more_bytes_than_gathering_everything_and_slicing(rank: int) -> None:
    """The detour that always exists. The full triangle law doesn't hold: the partitioner's ways aren't the shortest."""
    wide = LogicalMesh(Submesh(1, 8), (2, 4), (Link(100.0, 0.0), Link(100.0, 0.0)))
    specs = all_specs(rank, 2)
    table = reshard_table((64,) * rank, ITEMSIZE, specs, specs, wide)
    whole = specs.index(replicated(rank))
    assert (table <= table[:, [whole]] + 1e-9).all()
    assert (table[[whole], :] == 0).all()


@st.composite
def a_resharding(draw: st.DrawFn) -> tuple[Spec, Spec, frozenset[int]]:
    specs = all_specs(3, 3)
    src, dst = draw(st.sampled_from(specs)), draw(st.sampled_from(specs))
    free = sorted({0, 1, 2} - axes_of(src))
    return src, dst, frozenset(a for a in free if draw(st.booleans()))


@given(a_resharding())
def test_any_resharding_is_found_and_sums_what_is_pending(case: tuple[Spec, Spec, frozenset[int]]) -> None:
    src, dst, partial = case
    cube = mesh(2, 2, 2)
    found = reshard_steps((64,) * 3, 2, src, dst, cube, partial=partial)
    assert all(s.bytes > 0 and s.time_s > 0 and s.axes for s in found)
    combining = {a for s in found if s.kind in (ALL_REDUCE, REDUCE_SCATTER) for a in s.axes}
    assert combining == set(partial)
    assert reshard_s((64,) * 3, 2, src, dst, cube, partial=partial) == pytest.approx(sum(s.time_s for s in found))


@given(st.sampled_from(all_specs(3, 2)), st.permutations([0, 1, 2]))
def test_renaming_dimensions_changes_nothing(src: Spec, order: list[int]) -> None:
    dst: Spec = ((1,), (), (0,))
    here = reshard_s((64,) * 3, 4, src, dst, GRID)
    there = reshard_s((64,) * 3, 4, tuple(src[i] for i in order), tuple(dst[i] for i in order), GRID)
    # Which of two independent steps comes first may differ, and with it the size of the second.
    assert there == pytest.approx(here, rel=0.5)
    assert (there == 0) == (here == 0)


@given(st.sampled_from(SPECS), st.sampled_from(SPECS), st.integers(1, 100), st.integers(1, 100))
def test_larger_tensors_never_take_less(src: Spec, dst: Spec, small: int, more: int) -> None:
    assert (reshard_s((8 * small, 8), 4, src, dst, GRID) <= reshard_s((8 * (small + more), 8), 4, src, dst, GRID))


@given(st.sampled_from(SPECS))
def test_going_to_replicated_takes_no_less_than_the_missing_bytes(src: Spec) -> None:
    missing = TOTAL * (1 - 1 / shard_count(src, GRID.shape))
    assert reshard_s(SHAPE, ITEMSIZE, src, replicated(2), GRID) >= missing / 100


def test_the_table_is_the_pairs() -> None:
    pending = [frozenset({0, 1}) - axes_of(s) if n % 2 else frozenset[int]() for n, s in enumerate(SPECS)]
    table = reshard_table(SHAPE, ITEMSIZE, SPECS, SPECS, GRID, partials=pending)
    for (i, src), (j, dst) in itertools.product(enumerate(SPECS), enumerate(SPECS)):
        assert table[i, j] == pytest.approx(reshard_s(SHAPE, ITEMSIZE, src, dst, GRID, partial=pending[i]))
    assert reshard_table((), 4, [()], [()], GRID).tolist() == [[0.0]]


def test_unusable_specs_are_refused() -> None:
    with pytest.raises(ValueError, match="rank"):
        reshard_s(SHAPE, ITEMSIZE, ((), ()), ((),), GRID)
    with pytest.raises(ValueError, match="pending"):
        reshard_s(SHAPE, ITEMSIZE, ((0,), ()), ((), ()), GRID, partial=frozenset({0}))


def test_16_bit_floats_travel_as_float32_where_xla_on_cpu_moves_them():
    """The compiler that merges all-reduces is XLA on CPU. Wider ones, and narrower, stay as they are."""
    cpu = replace(GRID, merges_all_reduces=True)
    src, dst = ((0,), ()), ((), ())
    for item, travels in ((1, 1), (2, 4), (4, 4), (8, 8)):
        (there,) = reshard_steps(SHAPE, item, src, dst, cpu)
        assert there.bytes == 64 * 64 * travels
        assert reshard_s(SHAPE, item, src, dst, cpu) == reshard_s(SHAPE, travels, src, dst, GRID)
        assert reshard_table(SHAPE, item, [src], [dst], cpu)[0, 0] == there.time_s
    assert moved_bytes(Value(SHAPE, "bfloat16"), cpu) == 2 * moved_bytes(Value(SHAPE, "bfloat16"), GRID) == TOTAL
