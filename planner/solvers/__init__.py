"""Problem -> Solution with a proven bound: one solver per file, filed in a table under its name."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from planner.core.problem import INFINITE_COST, Problem, Solution, Status
from planner.core.problem_check import check_problem
from planner.errors import ProblemError
from planner.solvers.table import SOLVERS as SOLVERS
from planner.solvers.table import Progress as Progress
from planner.solvers.table import SolveOptions as SolveOptions


def solve(  # noqa: PLR0913  (options of one call, all named)
    problem: Problem,
    *,
    timeout_s: float,
    threads: int = 1,
    solver: str = "auto",
    on_progress: Callable[[Progress], None] | None = None,
    hint: Sequence[int] | None = None,
    seed: int = 0,
    raises: bool = False,
) -> Solution:
    """Solve a problem with the solver of that name.

    Args:
      problem: the problem; it is checked first.
      timeout_s: wall time allowed, in seconds. Ctrl-C ends the search sooner; both give the best solution so far. The
        first large problem on a machine takes some seconds more: loops are compiled, then kept on disk.
      threads: worker threads. With one, the answer is the same every time, unless time runs out.
      solver: a name in the table: `"auto"`, `"cpsat"`, `"elimination"`, `"exhaustive"`.
      on_progress: called with every better solution.
      hint: strategy per node to start from (-1: no opinion).
      seed: of all random choices, 0 or more.
      raises: pass Ctrl-C on, for callers that have an answer of their own.

    Raises:
      ProblemError: the problem is malformed, the solver can't take it, or the hint doesn't fit it.
      UnknownNameError: there is no solver of that name.
      KeyboardInterrupt: Ctrl-C before there was a solution, or with `raises`.
    """
    check_problem(problem)
    if not timeout_s > 0:
        raise ProblemError(f"the timeout is {timeout_s} s", "allow a positive number of seconds")
    if threads < 1:
        raise ProblemError(f"{threads} threads", "allow at least one")
    if seed < 0:
        raise ProblemError(f"the seed is {seed}", "take 0 or more")
    if hint is not None:
        _check_hint(problem, hint)
    return _settled(SOLVERS[solver](problem, SolveOptions(timeout_s, threads, on_progress, hint, seed, raises)))


def _settled(found: Solution) -> Solution:
    """A total at the forbidden mark or over it is no solution, even where no single cost is forbidden."""
    if found.bound >= INFINITE_COST:
        return replace(found, choice=None, cost=None, bound=INFINITE_COST, status=Status.INFEASIBLE)
    if found.cost is not None and found.cost >= INFINITE_COST:
        return replace(found, choice=None, cost=None, status=Status.UNKNOWN)
    return found


def _check_hint(problem: Problem, hint: Sequence[int]) -> None:
    if len(hint) != len(problem.nodes):
        raise ProblemError(f"the hint has {len(hint)} choices for {len(problem.nodes)} nodes")
    for n, (node, pick) in enumerate(zip(problem.nodes, hint, strict=True)):
        if not -1 <= pick < len(node.costs):
            raise ProblemError(f"the hint picks strategy {pick} of node {n}, which has {len(node.costs)}")
