"""When memory is in use: the maximal sets of nodes that are live together, and usage over time.

Intervals [start, end) that overlap pairwise share a time point, so a memory limit needs checking only where the set of
live nodes is maximal: just before an interval ends, if one began since the last end (the maximal cliques of an interval
graph; Golumbic, "Algorithmic Graph Theory and Perfect Graphs", chapter 8).
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

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
