"""A node with two neighbours is folded into an edge between them.

Proof: with the neighbours' choices (k, l) fixed, the node's strategy enters the total only through
cost_i + e[i, k] + f[i, l]; the minimum over i may be chosen freely and becomes the cost of (k, l) on an edge between
them. Memory: only a steady node is folded, as in `fold_leaf`.
"""

import numpy as np

from planner.core.problem import INFINITE_COST
from planner.solvers.reductions.parallel_edges import add
from planner.solvers.workspace import Workspace

MAX_WORK = 20_000_000
"""Products of the three domain sizes above this are left [about 50 ms on an EPYC core]."""


def fold_chain(work: Workspace, v: int) -> None:
    """Remove `v` if it is steady and has two neighbours."""
    if len(work.near[v]) != 2 or not work.is_steady(v):
        return
    (a, to_a), (b, to_b) = work.near[v].items()
    if not to_a.size or to_a.size * to_b.shape[1] > MAX_WORK:
        return
    with_a = add(to_a, work.costs[v][:, None])
    least = np.full((to_a.shape[1], to_b.shape[1]), np.iinfo(np.int64).max)
    best = np.zeros(least.shape, dtype=np.uint16)
    for i in range(len(work.alive[v])):
        total = with_a[i][:, None] + to_b[i][None, :]
        better = total < least
        np.copyto(least, total, where=better)
        best[better] = i
    work.remove(v, best)
    work.add_edge(a, b, np.minimum(least, INFINITE_COST))
