"""Maximal live sets and usage over time against point-by-point counting."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from planner.core.problem import Node, Problem
from planner.solvers.live import MemoryTimes, live_peaks, live_size

intervals = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=8)


@given(intervals)
def test_peaks_are_the_maximal_live_sets(spans: list[tuple[int, int]]) -> None:
    at = {frozenset(n for n, (a, b) in enumerate(spans) if a <= t < b) for t in range(10)} - {frozenset()}
    maximal = {live for live in at if not any(live < other for other in at)}
    peaks = live_peaks(spans)
    assert {frozenset(p) for p in peaks} == maximal
    assert len(peaks) == len(maximal)
    assert live_size(spans, [n + 1 for n in range(len(spans))]) == sum(n + 1 for p in peaks for n in p)


@given(intervals, st.integers(0, 5))
def test_usage_and_prices_by_time(spans: list[tuple[int, int]], price: int) -> None:
    problem = Problem("", tuple(Node(s, (0, 0), (n, n + 3)) for n, s in enumerate(spans)), (), 7)
    memory = MemoryTimes(problem)
    usage = memory.usage(np.ones(len(spans), dtype=np.int64))
    for t, used in zip(memory.times.tolist(), usage.tolist(), strict=True):
        assert used == sum(n + 3 for n, (a, b) in enumerate(spans) if a <= t < b)
    prices = np.arange(len(memory.times)) * float(price)
    for (a, b), rent in zip(spans, memory.node_prices(prices).tolist(), strict=True):
        assert rent == sum(p for t, p in zip(memory.times.tolist(), prices.tolist(), strict=True) if a <= t < b)
