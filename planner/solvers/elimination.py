"""Exact by variable elimination, for problems whose memory limit doesn't bind; otherwise a lower bound.

Elimination ignores memory. If its optimum stays within the limit it is the optimum of the whole problem; if not, its
cost is still a lower bound, and that is all that is returned.

Costs are integers and the tables are floats. That is exact whenever the optimum is below 2^53: costs are non-negative,
so all partial sums of an assignment are at most its total; those below 2^53 are exact, and rounding is monotone, so an
assignment with a larger total is never seen as cheaper than 2^53. A larger optimum is refused.
"""

import time

import numpy as np
from numpy.typing import NDArray

from planner.core.problem import INFINITE_COST, Problem, Solution, Status, evaluate
from planner.errors import ProblemError
from planner.solvers.eliminate_tables import eliminate
from planner.solvers.reductions.parallel_edges import merged_edges, saturated
from planner.solvers.table import SOLVERS, SolveOptions

EXACT_FLOAT = 2**53


@SOLVERS.register("elimination")
def elimination(problem: Problem, options: SolveOptions) -> Solution:
    """The optimum, proof that there is none, or (unknown) the bound where memory binds. Ignores the time limit.

    Raises:
      WidthExceeded: the tables would be too large.
      ProblemError: the optimum is over 2^53, where floats stop being exact.
    """
    return eliminated(problem, max_table=20_000_000)


def eliminated(problem: Problem, max_table: int) -> Solution:
    """As `elimination`, with a limit on table entries."""
    began = time.perf_counter()
    if not problem.nodes:
        return Solution((), 0, 0, Status.OPTIMAL, "elimination", time.perf_counter() - began)
    unary = [as_floats(saturated(node.costs)) for node in problem.nodes]
    edges = {pair: as_floats(costs) for pair, costs in merged_edges(problem).items()}
    found = eliminate(unary, edges, keep=(), max_table=max_table)
    best = float(found.table)
    if best > INFINITE_COST * (1 + 1e-9):  # clear of rounding
        spent = time.perf_counter() - began
        return Solution(None, None, INFINITE_COST, Status.INFEASIBLE, "elimination: all choices are forbidden", spent)
    if best >= EXACT_FLOAT:
        raise ProblemError(f"the optimum is about {best:.3g}, too large to be exact in floats", "use solver='cpsat'")
    choice = tuple(int(c) for c in found.decode(()))
    verdict = evaluate(problem, choice)
    spent = time.perf_counter() - began
    if verdict.violated_at is not None:
        return Solution(None, None, int(best), Status.UNKNOWN, "elimination: memory limit binds, bound only", spent)
    return Solution(choice, verdict.cost, int(best), Status.OPTIMAL, "elimination", spent)


def as_floats(costs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Costs as floats, `np.inf` where forbidden."""
    return np.where(costs >= INFINITE_COST, np.inf, costs.astype(np.float64))
