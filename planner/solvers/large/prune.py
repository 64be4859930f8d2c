"""Choices of merged nodes that another one can replace are removed (Goldstein's criterion), memory included.

As in `reductions/dominated`, with usage compared at every time that matters: j replaces i if it uses no more at any of
them and the saving in cost is at least 0 for the worst choices of the neighbours.
"""

import numpy as np
from numpy.typing import NDArray

from planner.core.problem import INFINITE_COST
from planner.solvers.large.merge import Merged, merge_edges, restrict
from planner.solvers.large.usage import Use

MAX_WORK = 20_000_000
"""Comparisons allowed for one node; larger nodes are left as they are [about 100 ms on an EPYC core]."""

FLOOR = -4 * INFINITE_COST
"""A saving this low is never made up for; adding one more edge to it stays within 64 bits."""


def prune(merged: Merged, uses: dict[int, Use]) -> int:
    """Remove what can be replaced, then merge on; the number of choices removed.

    `uses` are out of date afterwards if the number isn't 0.
    """
    removed = 0
    changed: list[int] = []
    for v in list(merged.labels):
        keep = ~_replaced(merged, v, uses.get(v))
        if not keep.all():
            removed += int((~keep).sum())
            restrict(merged, v, keep)
            if v in uses:
                uses[v] = Use(uses[v].first, uses[v].last, uses[v].usages[:, keep])
            changed.append(v)
    merge_edges(merged, [(v, u) for v in changed for u in merged.near[v]])
    return removed


def remove_forbidden(merged: Merged) -> None:
    """Remove choices that have no allowed partner along some edge, until there are none (as `reductions/forbidden`).

    A node of which nothing would be left is left as it is: the problem has no solution then, and the search finds none.
    """
    todo = dict.fromkeys(merged.labels)
    while todo:
        v = next(iter(todo))
        del todo[v]
        keep = ~_forbidden(merged, v)
        if keep.any() and not keep.all():
            restrict(merged, v, keep)
            todo.update(dict.fromkeys(merged.near[v]))


def _forbidden(merged: Merged, v: int) -> NDArray[np.bool_]:
    bad = merged.costs[v] >= INFINITE_COST
    for table in merged.near[v].values():
        bad = bad | (table.min(axis=1) >= INFINITE_COST)
    return bad


def _replaced(merged: Merged, v: int, use: Use | None) -> NDArray[np.bool_]:
    count = len(merged.labels[v])
    none = np.zeros(count, dtype=np.bool_)
    points = 0 if use is None else len(use.first)
    if count < 2 or count * count * (points + sum(t.shape[1] for t in merged.near[v].values())) > MAX_WORK:
        return none
    better = np.ones((count, count), dtype=np.bool_)  # [i, j]: j can replace i
    if use is not None:
        levels = np.unique(use.profile()[1], axis=0)
        for row in levels:
            better &= row[:, None] >= row[None, :]
        if better.sum() == count:
            return none
    better &= _savings(merged, v) >= 0
    np.fill_diagonal(better, val=False)
    keep = ~none
    for i in reversed(range(count)):
        keep[i] = not (better[i] & keep).any()
    return ~keep


def _savings(merged: Merged, v: int) -> NDArray[np.int64]:
    costs = merged.costs[v]
    saving = costs[:, None] - costs[None, :]
    for table in merged.near[v].values():
        i, j = table[:, None, :], table[None, :, :]
        worst = np.where(i >= INFINITE_COST, INFINITE_COST, np.where(j >= INFINITE_COST, FLOOR, i - j)).min(axis=2)
        saving = np.where(np.minimum(saving, worst) <= FLOOR, FLOOR, np.minimum(saving + worst, INFINITE_COST))
    return saving
