"""Read many optimal assignments out of one elimination at once.

In: an `Elimination` and rows of (batch index, kept choices). Out: one assignment per row. The same back-substitution as
`Elimination.decode`, over all rows with array indexing.
"""

import numpy as np
from numpy.typing import NDArray

from planner.solvers.eliminate_tables import Elimination


def decode_many(solved: Elimination, batch: NDArray[np.int64], kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """Optimal assignments.

    Args:
      solved: the elimination.
      batch: [rows] batch index (zeros where the problem has no batch axis).
      kept: [rows, len(solved.keep)] choices of the kept variables.

    Returns:
      [rows, variables]. Rows whose kept choice is forbidden hold an arbitrary assignment: look at `solved.table` first.
    """
    rows = len(batch)
    choice = np.full((rows, solved.variables), -1, dtype=np.int64)
    choice[:, list(solved.keep)] = kept
    for v, factors in reversed(solved.steps):
        total: NDArray[np.float64] | None = None
        for f in factors:
            at = f.scope.index(v)
            table = np.moveaxis(f.table, at + 1, -1)
            others = [u for u in f.scope if u != v]
            index = (np.minimum(batch, f.table.shape[0] - 1), *(choice[:, u] for u in others))
            column = table[index]
            total = column if total is None else total + column
        choice[:, v] = 0 if total is None else np.argmin(total, axis=1)
    return choice
