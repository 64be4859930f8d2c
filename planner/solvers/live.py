"""When memory is in use: the maximal sets of nodes that are live together, and usage over time.

Intervals [start, end) that overlap pairwise share a time point, so a memory limit needs checking only where the set of
live nodes is maximal: just before an interval ends, if one began since the last end (the maximal cliques of an interval
graph; Golumbic, "Algorithmic Graph Theory and Perfect Graphs", chapter 8).
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from planner.core.problem import Problem

Ints = NDArray[np.int64]


def live_peaks(intervals: Iterable[tuple[int, int]]) -> list[tuple[int, ...]]:
    """The maximal sets of intervals that overlap, as tuples of indices in order; empty intervals are in none."""
    events: list[tuple[int, int, int]] = []
    for n, (start, end) in enumerate(intervals):
        if start < end:
            events += [(start, 1, n), (end, 0, n)]  # at one time, ends (0) come before starts (1)
    live: set[int] = set()
    peaks: list[tuple[int, ...]] = []
    grown = False
    for _, begins, n in sorted(events):
        if begins:
            live.add(n)
            grown = True
        else:
            if grown:
                peaks.append(tuple(sorted(live)))
            live.remove(n)
            grown = False
    return peaks


def live_size(intervals: Iterable[tuple[int, int]], weights: Iterable[int]) -> int:
    """The total weight of all the maximal sets of `live_peaks`, without making them."""
    events: list[tuple[int, int, int]] = []
    for (start, end), weight in zip(intervals, weights, strict=True):
        if start < end:
            events += [(start, 1, weight), (end, 0, weight)]
    live = total = 0
    grown = False
    for _, begins, weight in sorted(events):
        if not begins and grown:
            total += live
        live += weight if begins else -weight
        grown = bool(begins)
    return total


def usage_over_time(starts: Ints, ends: Ints, usages: Ints) -> tuple[Ints, Ints]:
    """(times, levels): `levels[k]` is in use from `times[k]` up to `times[k + 1]`; the last level is 0."""
    real = starts < ends
    points = np.concatenate([starts[real], ends[real]])
    changes = np.concatenate([usages[real], -usages[real]])
    times, place = np.unique(points, return_inverse=True)
    levels = np.zeros(len(times), dtype=np.int64)
    np.add.at(levels, place, changes)
    return times, np.cumsum(levels)


def fits(intervals: Iterable[tuple[int, int]], usages: Iterable[int], limit: int | None) -> bool:
    """Whether usage stays within the limit at all times."""
    if limit is None:
        return True
    ends = np.array(list(intervals), dtype=np.int64).reshape(-1, 2)
    _, levels = usage_over_time(ends[:, 0], ends[:, 1], np.array(list(usages), dtype=np.int64))
    return bool((levels <= limit).all())


class MemoryTimes:
    """The times at which memory can bind, and which nodes are live at each.

    Attributes:
      times: the start of each stretch of time between two interval ends.
      first, last: per node, its stretches [first, last); empty where its interval is, or where there is no limit.
      usages: per node, its usages.
      limit: the limit.
    """

    def __init__(self, problem: Problem) -> None:
        limited = problem.usage_limit is not None
        spans = [n.interval if limited and n.interval[0] < n.interval[1] else (0, 0) for n in problem.nodes]
        starts, ends = np.array([s for s, _ in spans], dtype=np.int64), np.array([e for _, e in spans], dtype=np.int64)
        self.times = np.unique(np.concatenate([starts, ends]))
        self.first, self.last = np.searchsorted(self.times, starts), np.searchsorted(self.times, ends)
        self.usages = [np.array(node.usages, dtype=np.int64) for node in problem.nodes]
        self.limit = problem.usage_limit or 0

    def usage(self, choice: Ints) -> Ints:
        """Memory in use from each time on."""
        used = np.array([u[pick] for u, pick in zip(self.usages, choice.tolist(), strict=True)], dtype=np.int64)
        change = np.zeros(len(self.times) + 1, dtype=np.int64)
        np.add.at(change, self.first, used)
        np.subtract.at(change, self.last, used)
        return np.cumsum(change)[:-1]

    def node_prices(self, prices: NDArray[np.float64]) -> NDArray[np.float64]:
        """What a unit of a node's memory costs over the time it is live, given prices per time."""
        before = np.concatenate([[0.0], np.cumsum(prices)])
        return before[self.last] - before[self.first]
