"""A strategy that another one of its node can replace without harm is removed (Goldstein's criterion, 1994).

Replacing i by j saves cost_i - cost_j + sum over edges of (e_i[k] - e_j[k]), k being the neighbour's choice. If that is
at least 0 even for the worst k of each edge, and j uses no more memory than i, then every solution with i stays a
solution with j and gets no dearer. Where e_i[k] is infinite there is no solution to harm; where only e_j[k] is, j can't
replace i.

Strategies go one at a time, highest index first, each because of one that is still there: so at every step the best of
the remaining solutions is as good as before.
"""

import numpy as np
from numpy.typing import NDArray

from planner.core.problem import INFINITE_COST
from planner.solvers.workspace import Workspace

MAX_WORK = 4_000_000
"""Comparisons allowed for one node; larger nodes are left as they are [about 20 ms on an EPYC core]."""

FLOOR = -4 * INFINITE_COST
"""A saving this low is never made up for; adding one more edge to it stays within 64 bits."""


def remove_dominated(work: Workspace, v: int) -> None:
    """Remove the dominated strategies of `v`."""
    count = len(work.alive[v])
    if count < 2 or count * count * (1 + sum(t.shape[1] for t in work.near[v].values())) > MAX_WORK:
        return
    replaces = _least_savings(work, v) >= 0  # [i, j]: j can replace i
    if work.spans[v] is not None:
        replaces &= work.usages[v][:, None] >= work.usages[v][None, :]
    np.fill_diagonal(replaces, val=False)
    keep = np.ones(count, dtype=np.bool_)
    for i in reversed(range(count)):
        keep[i] = not (replaces[i] & keep).any()
    if not keep.all():
        work.restrict(v, keep)


def _least_savings(work: Workspace, v: int) -> NDArray[np.int64]:
    costs = work.costs[v]
    saving = costs[:, None] - costs[None, :]
    for table in work.near[v].values():
        i, j = table[:, None, :], table[None, :, :]
        worst = np.where(i >= INFINITE_COST, INFINITE_COST, np.where(j >= INFINITE_COST, FLOOR, i - j)).min(axis=2)
        saving = np.where(np.minimum(saving, worst) <= FLOOR, FLOOR, np.minimum(saving + worst, INFINITE_COST))
    return saving
