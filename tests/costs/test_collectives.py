"""Collectives against formulas worked out by hand, and laws they must obey."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.hardware import CollectiveTime, Link, LogicalMesh, Submesh
from planner.costs.collectives import (
    ALL_GATHER,
    ALL_REDUCE,
    ALL_TO_ALL,
    BROADCAST,
    KINDS,
    PERMUTE,
    REDUCE_SCATTER,
    all_gather_s,
    all_reduce_s,
    all_to_all_s,
    collective,
    permute_s,
    reduce_scatter_s,
    send_s,
    sent_bytes,
    when_merged,
)
from tests.costs.machines import FAST, SLOW, mesh

TWO_SPEEDS = LogicalMesh(Submesh(2, 4), (2, 4), (SLOW, FAST))


def test_one_axis_by_hand() -> None:
    flat = mesh(4)  # 100 B/s, 0.5 s a step
    # All-gather of 800 B: 3 steps, each device sends 3/4 of 800 B = 600 B: 1.5 + 6 s.
    assert all_gather_s(800, (0,), flat) == pytest.approx(7.5)
    assert reduce_scatter_s(800, (0,), flat) == pytest.approx(7.5)
    # All-reduce: both of them.
    assert all_reduce_s(800, (0,), flat) == pytest.approx(15.0)
    # All-to-all of 800 B: each device has 200 B and sends 150 B of it in 3 messages: 1.5 + 1.5 s.
    assert all_to_all_s(800, (0,), flat) == pytest.approx(3.0)
    # Permute: one message of what the device holds, 200 B: 0.5 + 2 s.
    assert permute_s(200, (0,), flat) == pytest.approx(2.5)
    assert send_s(200, FAST) == pytest.approx(2.5)


def test_bytes_that_a_device_sends_are_those_of_its_time() -> None:
    """Without latency, over 100 B/s."""
    swift = LogicalMesh(Submesh(1, 4), (4,), (dataclasses.replace(FAST, latency_s=0.0),))
    assert {kind: sent_bytes(kind, 800, 4) for kind in KINDS} == {
        ALL_REDUCE: 1200, ALL_GATHER: 600, REDUCE_SCATTER: 600, ALL_TO_ALL: 150, PERMUTE: 800, BROADCAST: 800}
    for kind in set(KINDS) - {BROADCAST}:
        assert collective(kind, (0,), swift).at(800) == pytest.approx(sent_bytes(kind, 800, 4) / 100)


def test_two_axes_by_hand() -> None:
    # All-gather of 800 B over 2 slow x 4 fast. Slow axis first: result 200 B, sends 100 B at 8 B/s in 1 step of 2 s.
    # Fast axis: result 800 B, sends 600 B at 100 B/s in 3 steps of 0.5 s.
    assert all_gather_s(800, (0, 1), TWO_SPEEDS) == pytest.approx((2 + 12.5) + (1.5 + 6))
    # All-reduce: reduce-scatter on the fast axis, all-reduce of the 200 B shard on the slow one, all-gather back.
    assert all_reduce_s(800, (0, 1), TWO_SPEEDS) == pytest.approx(2 * (1.5 + 6) + 2 * (2 + 12.5))
    # All-to-all: 100 B a device; half of it over the slow axis, 3/4 of it over the fast one.
    assert all_to_all_s(800, (0, 1), TWO_SPEEDS) == pytest.approx((2 + 50 / 8) + (1.5 + 0.75))
    # Permute: over the slow link.
    assert permute_s(80, (0, 1), TWO_SPEEDS) == pytest.approx(2 + 10)


def test_a_hierarchical_collective_on_equal_links_moves_what_a_flat_one_does() -> None:
    for kind in (ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER):
        flat, split = collective(kind, (0,), mesh(8)), collective(kind, (0, 1), mesh(2, 4))
        assert split.slope_s_per_byte == pytest.approx(flat.slope_s_per_byte)
        assert split.at(0) < flat.at(0)  # fewer steps: 1 + 3 against 7


def test_no_axes_cost_nothing() -> None:
    for kind in KINDS:
        assert collective(kind, (), mesh(8)).at(1e9) == 0
        assert collective(kind, (0,), mesh(1, 8)).at(1e9) == 0


def test_reduce_scatter_as_all_reduce() -> None:
    honest, cpu = mesh(4), mesh(4, as_all_reduce=True)
    assert reduce_scatter_s(800, (0,), cpu) == all_reduce_s(800, (0,), honest) > reduce_scatter_s(800, (0,), honest)


def test_measured_times_replace_the_formula() -> None:
    measured = (CollectiveTime(ALL_REDUCE, 2, 1.0, 0.25), CollectiveTime(ALL_REDUCE, 8, 4.0, 1.0))
    assert all_reduce_s(8, (0,), mesh(2, measured=measured)) == pytest.approx(1 + 2)
    # Half-way between 2 and 8 devices lies 5; 4 is a third of the way: 1 + 1 s, 0.25 + 0.25 s/B.
    assert all_reduce_s(8, (0,), mesh(4, measured=measured)) == pytest.approx(2 + 4)
    # Beyond what was measured: the nearest.
    assert all_reduce_s(8, (0,), mesh(16, measured=measured)) == pytest.approx(4 + 8)
    # Two axes over the same link are one group of eight, as when it was measured.
    assert all_reduce_s(8, (0, 1), mesh(2, 4, measured=measured)) == pytest.approx(4 + 8)
    # A kind that wasn't measured keeps its formula.
    assert all_gather_s(800, (0,), mesh(4, measured=measured)) == pytest.approx(7.5)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="all-reduce"):
        collective("allreduce", (0,), mesh(4))


sizes = st.floats(0, 1e12)
kinds = st.sampled_from(KINDS)


@given(kinds, sizes, sizes)
def test_more_bytes_never_take_less(kind: str, one: float, other: float) -> None:
    time = collective(kind, (0, 1), TWO_SPEEDS)
    assert (time.at(one) - time.at(other)) * (one - other) >= 0


@given(kinds, sizes, st.permutations([0, 1, 2]))
def test_the_order_in_which_axes_are_named_does_not_matter(kind: str, size: float, order: list[int]) -> None:
    three = LogicalMesh(Submesh(2, 4), (2, 2, 2), (SLOW, FAST, Link(50.0, 0.1)))
    assert collective(kind, tuple(order), three) == collective(kind, (0, 1, 2), three)


@given(sizes, st.sampled_from([2, 4, 8]))
def test_all_reduce_is_reduce_scatter_then_all_gather(size: float, n: int) -> None:
    both = reduce_scatter_s(size, (0,), mesh(n)) + all_gather_s(size, (0,), mesh(n))
    assert all_reduce_s(size, (0,), mesh(n)) == pytest.approx(both)


@given(kinds, sizes)
def test_a_faster_link_is_never_slower(kind: str, size: float) -> None:
    slow, fast = (LogicalMesh(Submesh(1, 4), (4,), (link,)) for link in (SLOW, FAST))
    assert collective(kind, (0,), fast).at(size) <= collective(kind, (0,), slow).at(size)


def test_all_to_all_moves_less_than_all_gather() -> None:
    for kind in (ALL_TO_ALL, PERMUTE):
        assert collective(kind, (0,), mesh(4)).at(100) < collective(ALL_GATHER, (0,), mesh(4)).at(400)


def test_a_merged_all_reduce_costs_its_bytes() -> None:
    plain = mesh(4)
    assert when_merged(plain) is plain
    merged = when_merged(dataclasses.replace(plain, merges_all_reduces=True))
    # 800 B around a ring of 4: 2 x 600 B at 100 B/s; alone, 6 steps of 0.5 s more.
    assert all_reduce_s(800, (0,), merged) == pytest.approx(12) == all_reduce_s(800, (0,), plain) - 3
    assert all_gather_s(800, (0,), merged) == all_gather_s(800, (0,), plain)
