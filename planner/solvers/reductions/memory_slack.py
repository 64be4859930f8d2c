"""Memory that can't bind is forgotten, and strategies that can't fit are removed.

Proofs. At a time where even the largest usages together stay within the limit, no choice can break it; a node (or a
piece of ballast) that is live only at such times plays no part in the limit. At any time, if v takes strategy i, the
others use at least their smallest usage; if that sum is over the limit, i is in no solution. If the smallest usages of
all are already over it, nothing is.
"""

import numpy as np
from numpy.typing import NDArray

from planner.solvers.live import usage_over_time
from planner.solvers.workspace import Workspace

Ints = NDArray[np.int64]


def relax_memory(work: Workspace) -> None:
    """Apply to the whole workspace: forget spans without effect, remove strategies that can't fit."""
    if work.limit is None:
        return
    nodes = [v for v, span in work.spans.items() if span is not None]
    spans = [span for span in work.spans.values() if span is not None] + [span for span, _ in work.ballast]
    if not spans:
        return
    starts, ends = np.array([s for s, _ in spans], dtype=np.int64), np.array([e for _, e in spans], dtype=np.int64)
    ballast = [usage for _, usage in work.ballast]
    least = np.array([int(work.usages[v].min()) for v in nodes] + ballast, dtype=np.int64)
    most = np.array([int(work.usages[v].max()) for v in nodes] + ballast, dtype=np.int64)
    times, lows = usage_over_time(starts, ends, least)
    _, highs = usage_over_time(starts, ends, most)
    if (lows > work.limit).any():
        work.impossible = work.impossible or f"the smallest usages are over the limit at {times[lows > work.limit][0]}"
        return
    first, last = np.searchsorted(times, starts), np.searchsorted(times, ends)
    binding = np.concatenate([[0], np.cumsum(highs > work.limit)])
    matters = binding[last] > binding[first]
    work.ballast = [piece for piece, kept in zip(work.ballast, matters[len(nodes) :], strict=True) if kept]
    peaks = _range_max(lows, first, last)
    for v, kept, low, peak in zip(nodes, matters, least, peaks, strict=False):
        if not kept:
            work.spans[v] = None
            work.touched[v] = None
        elif (tall := work.usages[v] - low + peak > work.limit).any():
            work.restrict(v, ~tall)


def _range_max(levels: Ints, first: Ints, last: Ints) -> Ints:
    """max(levels[first:last]) for many non-empty ranges at once, from maxima over power-of-two windows."""
    tables: list[Ints] = [levels]
    while 2 << (len(tables) - 1) <= len(levels):
        half = 1 << (len(tables) - 1)
        tables.append(np.maximum(tables[-1][:-half], tables[-1][half:]))
    rung = np.frexp((last - first).astype(np.float64))[1] - 1
    found = np.empty(len(first), dtype=np.int64)
    for k in np.unique(rung):
        of = rung == k
        window = tables[int(k)]
        found[of] = np.maximum(window[first[of]], window[last[of] - (1 << int(k))])
    return found
