"""Choices that are in no solution as cheap as one already known are removed (reduced-cost fixing).

Proof: with the costs as the dual ascent left them, every solution costs at least the sum of all minima less the rent of
the memory limit, B. A solution that takes strategy i of v pays at least own_i - min own more, and on each edge of v at
least (min of row i) - (min of the matrix) more; one that takes the pair (i, j) of an edge pays at least
m_ij - min m + (own_i - min own of a) + (own_j - min own of b) more. If B and that exceed the known cost, it is too
dear.
"""

import numpy as np

from planner.solvers.dual_ascent import Ascent
from planner.solvers.workspace import Workspace


def remove_too_dear(work: Workspace, state: Ascent, known: int) -> None:
    """Remove what makes a solution cost more than `known`.

    Args:
      work: the workspace; its remaining nodes, in order, are the first nodes of the problem that `state` was built
        from.
      state: costs as the ascent left them.
      known: cost of a solution of that problem.
    """
    room = known - state.bound()
    nodes = work.remaining()
    extra = [own - own.min() for own in state.unary]
    for (a, b), table in state.edges.items():
        total = table - table.min() + extra[a][:, None] + extra[b][None, :]
        work.forbid(nodes[a], nodes[b], total > room)
    for n, v in enumerate(nodes):
        total = extra[n] + sum(table.min(axis=1) - table.min() for _, table in state.around[n])
        if (total > room).any():
            work.restrict(v, np.asarray(total <= room))
