"""An edge whose cost is one term per end is moved into the nodes; a node with one strategy is the common case.

Proof: if M[i, j] = r[i] + c[j] for all i, j, the edge adds r[i] to the cost of i and c[j] to that of j, whatever the
other end chooses. With r the row minima and c what is left in the first row, both are non-negative. Matrices with a
forbidden pair are left alone, unless one end has a single strategy: then r is the column itself.
"""

from planner.core.problem import INFINITE_COST
from planner.solvers.workspace import Workspace


def split_separable(work: Workspace, v: int) -> None:
    """Move the separable edges of `v` into its own and its neighbours' costs."""
    for u, table in list(work.near[v].items()):
        if not table.size:
            continue
        if table.shape[1] == 1:
            work.add_cost(v, table[:, 0])
        elif table.shape[0] == 1:
            work.add_cost(u, table[0])
        else:
            rows = table.min(axis=1)
            columns = table[0] - rows[0]
            if table.max() >= INFINITE_COST or (table != rows[:, None] + columns[None, :]).any():
                continue
            work.add_cost(v, rows)
            work.add_cost(u, columns)
        work.drop_edge(v, u)
