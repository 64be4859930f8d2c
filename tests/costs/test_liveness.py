"""Buffers over time, against sums taken moment by moment."""

import hypothesis.strategies as st
from hypothesis import given

from planner.costs.liveness import Kernel, as_ready, packed, places
from planner.costs.memory import Live, peak


@st.composite
def programs(draw):
    """Kernels in a legal order, each writing one buffer, and sizes; buffers 0 and 1 come from outside."""
    count = draw(st.integers(1, 12))
    kernels, sizes = [], {0: 5, 1: 7}
    for n in range(count):
        reads = tuple(sorted(draw(st.sets(st.integers(0, n + 1), max_size=3))))
        over = tuple(r for r in reads if draw(st.booleans()))
        kernels.append(Kernel(reads, (n + 2,), over))
        sizes[n + 2] = draw(st.integers(1, 3))
    kept = draw(st.sets(st.integers(2, count + 1), max_size=2))
    return kernels, sizes, kept


def most_at_once(kernels, order, sizes, kept):
    """Moment by moment: a result needs room unless a dying operand of its size is given up for it."""
    last = {b: t for t, n in enumerate(order) for b in kernels[n].reads}
    live, most = set(), 0
    for t, n in enumerate(order):
        given_up = [b for b in kernels[n].over if b in live and last[b] == t and b not in kept]
        for b in kernels[n].writes:
            old = next((o for o in given_up if sizes[o] == sizes[b]), None) if b not in kept else None
            if old is not None:
                given_up.remove(old)
                live.remove(old)
            live.add(b)
        most = max(most, sum(sizes[b] for b in live))
        live = {b for b in live if b in kept or last.get(b, t) > t}
    return most


@given(programs())
def test_the_peak_is_the_most_that_lives_at_once(program):
    kernels, sizes, kept = program
    for order in (tuple(range(len(kernels))), as_ready(kernels)):
        found = places(kernels, order, sizes, kept)
        assert peak(p.live for p in found)[0] == most_at_once(kernels, order, sizes, kept)


@given(programs())
def test_as_ready_runs_every_kernel_after_what_it_reads(program):
    kernels, _, _ = program
    order = as_ready(kernels)
    at = {n: t for t, n in enumerate(order)}
    assert sorted(order) == list(range(len(kernels)))
    assert all(at[r - 2] < at[n] for n, k in enumerate(kernels) for r in k.reads if r >= 2)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 8), st.integers(1, 9)), max_size=25))
def test_an_allocation_holds_the_peak_and_no_more_than_everything(rows):
    intervals = [Live(start, start + length, size) for start, length, size in rows]
    assert peak(intervals)[0] <= packed(intervals) <= sum(size for _, _, size in rows)


def test_a_gap_is_filled_where_the_next_one_fits():
    """Side by side at first, 4 + 2 bytes; what comes after the 4 goes where they were."""
    assert packed([Live(0, 2, 4), Live(0, 4, 2), Live(2, 4, 3)]) == 6


def test_early_order_starts_what_waits_for_nothing_first():
    """Two chains: the second kernel of the first chain runs after the first of the second."""
    kernels = [Kernel((), (0,)), Kernel((0,), (1,)), Kernel((), (2,)), Kernel((1, 2), (3,))]
    assert as_ready(kernels) == (0, 2, 1, 3)
