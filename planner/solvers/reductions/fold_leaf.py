"""A node with at most one neighbour is folded into it: for each choice of the neighbour, the best of its own is known.

Proof: with choice k of the neighbour u fixed, the node's strategy enters the total only through cost_i + e[i, k]; its
minimum over i may be chosen freely and is added to u's cost of k. Memory: only a steady node is folded (all its
strategies use the same memory, or its usage doesn't matter), so the choice can't break the limit.
"""

import numpy as np

from planner.core.problem import INFINITE_COST
from planner.solvers.reductions.parallel_edges import add
from planner.solvers.workspace import Workspace


def fold_leaf(work: Workspace, v: int) -> None:
    """Remove `v` if it is steady and has no neighbour or one."""
    if len(work.near[v]) > 1 or not work.is_steady(v) or not len(work.alive[v]):
        return
    if not work.near[v]:
        best = work.costs[v].argmin()
        if work.costs[v][best] >= INFINITE_COST:
            work.impossible = work.impossible or f"all strategies of node {v} are forbidden"
        work.constant = min(work.constant + int(work.costs[v][best]), INFINITE_COST)
        work.remove(v, np.array(best))
        return
    ((u, table),) = work.near[v].items()
    totals = add(table, work.costs[v][:, None])
    work.remove(v, totals.argmin(axis=0).astype(np.uint16))
    work.add_cost(u, totals.min(axis=0))
