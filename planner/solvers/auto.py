"""The default: reduce exactly, eliminate what remains if its tables are small, give the rest to CP-SAT.

The parts are exact, so the answer is optimal unless CP-SAT runs out of time; bounds are those of the parts plus the
cost that the reductions settled.
"""

import time
from dataclasses import replace

from planner.core.problem import INFINITE_COST, Problem, Solution, Status
from planner.errors import ProblemError
from planner.solvers.cpsat import cpsat
from planner.solvers.eliminate_tables import WidthExceeded
from planner.solvers.elimination import eliminated
from planner.solvers.reduce import Reduction, reduce_problem
from planner.solvers.table import SOLVERS, Progress, SolveOptions

MAX_TABLE = 1_000_000
"""Entries of elimination's largest table: about a second of work at most [EPYC core]."""

REDUCTION_SHARE = 0.3
"""Part of the time limit that reductions may take."""


@SOLVERS.register("auto")
def auto(problem: Problem, options: SolveOptions) -> Solution:
    """Solve by the cheapest exact means that does it."""
    began = time.perf_counter()
    reduction = reduce_problem(problem, deadline=began + REDUCTION_SHARE * options.timeout_s)
    label = f"reduced {len(problem.nodes)} to {len(reduction.work.remaining())} nodes"
    if reduction.impossible:
        spent = time.perf_counter() - began
        return Solution(None, None, INFINITE_COST, Status.INFEASIBLE, f"{label}: {reduction.impossible}", spent)
    try:
        rest = eliminated(reduction.problem, MAX_TABLE)
    except (WidthExceeded, ProblemError) as refusal:
        rest = Solution(None, None, 0, Status.UNKNOWN, f"no elimination: {refusal.what}", 0.0)
    if rest.status is Status.UNKNOWN:
        searched = cpsat(reduction.problem, _options_for_rest(reduction, options, began))
        bound = max(searched.bound, rest.bound)
        closed = searched.cost is not None and searched.cost <= bound
        rest = replace(searched, bound=bound, status=Status.OPTIMAL if closed else searched.status)
    return _lifted(reduction, rest, label, began)


def _options_for_rest(reduction: Reduction, options: SolveOptions, began: float) -> SolveOptions:
    report = options.on_progress
    offset = reduction.constant

    def shifted(p: Progress) -> None:
        if report is not None:
            report(Progress(p.cost + offset, p.bound + offset, time.perf_counter() - began))

    return SolveOptions(
        timeout_s=max(0.01, options.timeout_s - (time.perf_counter() - began)),
        threads=options.threads,
        on_progress=shifted if report else None,
        hint=None if options.hint is None else reduction.restrict(options.hint),
    )


def _lifted(reduction: Reduction, rest: Solution, label: str, began: float) -> Solution:
    """The solution of the reduced problem as one of the original."""
    infeasible = rest.status is Status.INFEASIBLE
    return Solution(
        choice=None if rest.choice is None else reduction.expand(rest.choice),
        cost=None if rest.cost is None else rest.cost + reduction.constant,
        bound=INFINITE_COST if infeasible else rest.bound + reduction.constant,
        status=rest.status,
        solver=f"{label}, {rest.solver}",
        time_s=time.perf_counter() - began,
    )
