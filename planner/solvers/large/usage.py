"""Memory of merged nodes over the times that matter.

A merged node uses memory over the intervals of all its members. Only times just before an interval ends, with a start
since the end before it, need checking (see `live`), and of those only the ones where the largest usages of all nodes
together exceed the limit: no choice can break it elsewhere.

In: a `Workspace` and the `Merged` made from it. Out: per merged node its `Use`, and the `Grid` of times.
"""

from dataclasses import dataclass

import numpy as np

from planner.solvers.large.merge import Ints, Merged
from planner.solvers.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Use:
    """Memory of one merged node: on grid times [first[k], last[k]) it uses `usages[k, i]` if it takes choice i."""

    first: Ints
    last: Ints
    usages: Ints

    def profile(self) -> tuple[Ints, Ints]:
        """(times, levels): `levels[k, i]` is in use from grid time `times[k]` to the next if it takes i."""
        times, place = np.unique(np.concatenate([self.first, self.last]), return_inverse=True)
        levels = np.zeros((len(times), self.usages.shape[1]), dtype=np.int64)
        np.add.at(levels, place, np.concatenate([self.usages, -self.usages]))
        return times, np.cumsum(levels, axis=0)


@dataclass(frozen=True)
class Grid:
    """The times that matter, and the memory there that no choice changes.

    Attributes:
      times: the times, in the problem's units.
      room: memory left at each for what choices change; negative where nothing fits.
    """

    times: Ints
    room: Ints


def memory_of(work: Workspace, merged: Merged) -> tuple[Grid, dict[int, Use]]:
    """Grid and uses, as the merged graph stands."""
    if work.limit is None:
        return Grid(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)), {}
    members = [m for m in merged.members() if work.spans[m.node] is not None]
    spans = np.array([work.spans[m.node] or (0, 0) for m in members], dtype=np.int64).reshape(-1, 2)
    still = np.array([span for span, _ in work.ballast], dtype=np.int64).reshape(-1, 2)
    times = _peaks(np.concatenate([spans, still]))
    first, last = np.searchsorted(times, spans[:, 0]), np.searchsorted(times, spans[:, 1])
    base = np.zeros(len(times) + 1, dtype=np.int64)
    ballast = np.array([usage for _, usage in work.ballast], dtype=np.int64)
    np.add.at(base, np.searchsorted(times, still[:, 0]), ballast)
    np.subtract.at(base, np.searchsorted(times, still[:, 1]), ballast)
    rows: dict[int, list[tuple[int, int, Ints]]] = {}
    for member, start, end in zip(members, first.tolist(), last.tolist(), strict=True):
        usages = work.usages[member.node][member.picks]
        least = usages.min()
        base[start] += least
        base[end] -= least
        if usages.max() > least:
            rows.setdefault(member.of, []).append((start, end, usages - least))
    uses = {v: _as_use(found) for v, found in rows.items()}
    room = work.limit - np.cumsum(base)[:-1]
    return _relevant(Grid(times, room), uses)


def _as_use(rows: list[tuple[int, int, Ints]]) -> Use:
    """Rows with the same interval are added up."""
    spans = np.array([row[:2] for row in rows], dtype=np.int64)
    usages = np.array([row[2] for row in rows], dtype=np.int64)
    distinct, place = np.unique(spans, axis=0, return_inverse=True)
    total = np.zeros((len(distinct), usages.shape[1]), dtype=np.int64)
    np.add.at(total, place.ravel(), usages)
    return Use(distinct[:, 0], distinct[:, 1], total)


def _relevant(grid: Grid, uses: dict[int, Use]) -> tuple[Grid, dict[int, Use]]:
    """Only the times where the largest usages don't fit."""
    most = np.zeros(len(grid.times) + 1, dtype=np.int64)
    for use in uses.values():
        times, levels = use.profile()
        top = levels.max(axis=1)
        most[times] += np.diff(top, prepend=0)
    keep = np.cumsum(most)[:-1] > grid.room
    place = np.concatenate([[0], np.cumsum(keep)])
    kept: dict[int, Use] = {}
    for v, use in uses.items():
        first, last = place[use.first], place[use.last]
        if (on := first < last).any():
            kept[v] = Use(first[on], last[on], use.usages[on])
    return Grid(grid.times[keep], grid.room[keep]), kept


def _peaks(spans: Ints) -> Ints:
    """The last time of each maximal set of intervals that overlap."""
    spans = spans[spans[:, 0] < spans[:, 1]]
    starts, ends = np.unique(spans[:, 0]), np.unique(spans[:, 1])
    begun = np.searchsorted(starts, ends)  # starts before each end
    return ends[np.diff(begun, prepend=0) > 0] - 1
