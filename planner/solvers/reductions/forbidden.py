"""Strategies that can be in no solution are removed (arc consistency; Mackworth's AC-3, 1977).

Proof: a strategy whose own cost is infinite, or that has an infinite cost with every strategy that a neighbour still
has,
makes every total that contains it infinite. If a node has no strategy left, the problem has no solution.
"""

from planner.core.problem import INFINITE_COST
from planner.solvers.workspace import Workspace


def remove_forbidden(work: Workspace, v: int) -> None:
    """Remove the strategies of `v` that are forbidden by themselves or by one of its edges."""
    keep = work.costs[v] < INFINITE_COST
    for table in work.near[v].values():
        keep &= table.min(axis=1, initial=INFINITE_COST) < INFINITE_COST
    if not keep.all():
        work.restrict(v, keep)
