"""OR-Tools' CP-SAT: proven optimum, or the best solution found in time with a proven bound.

Ctrl-C ends the search and returns the best so far, like the time limit does.
"""

import math
import time
from collections.abc import Callable

from ortools.sat.python import cp_model

from planner.core.problem import INFINITE_COST, Problem, Solution, Status, evaluate
from planner.solvers.cpsat_model import Model, add_hint, picked, problem_model, proven_bound
from planner.solvers.cpsat_run import run_cpsat
from planner.solvers.table import SOLVERS, Progress, SolveOptions


class _Watch(cp_model.CpSolverSolutionCallback):
    """Reports every better solution."""

    def __init__(self, model: Model, began: float, report: Callable[[Progress], None]) -> None:
        super().__init__()
        self._model, self._began, self._report = model, began, report

    def on_solution_callback(self) -> None:
        cost = self._model.constant + round(self.objective_value) * self._model.unit
        bound = min(proven_bound(self._model, self.best_objective_bound), cost)
        self._report(Progress(cost, bound, time.perf_counter() - self._began))


@SOLVERS.register("cpsat")
def cpsat(problem: Problem, options: SolveOptions) -> Solution:
    """Solve with CP-SAT. Deterministic with one thread unless time runs out."""
    found, interrupted = cpsat_within(problem, options, math.inf)
    if interrupted and (options.raises or found.choice is None):
        raise KeyboardInterrupt
    return found


def cpsat_within(problem: Problem, options: SolveOptions, work: float) -> tuple[Solution, bool]:
    """The same with a limit on work, about in seconds but equal on every machine; and whether Ctrl-C ended it."""
    began = time.perf_counter()
    model = problem_model(problem)
    if options.hint is not None:
        add_hint(model, options.hint)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = max(0.01, options.timeout_s - (time.perf_counter() - began))
    solver.parameters.max_deterministic_time = work
    solver.parameters.num_workers = options.threads
    solver.parameters.random_seed = options.seed
    watch = _Watch(model, began, options.on_progress) if options.on_progress else None
    status, interrupted = run_cpsat(solver, model.cp, watch)
    if status == cp_model.MODEL_INVALID:
        raise ValueError(f"CP-SAT refuses the model: {model.cp.validate()}")
    if status == cp_model.INFEASIBLE:
        return _answer(None, None, INFINITE_COST, Status.INFEASIBLE, began), interrupted
    bound = proven_bound(model, solver.best_objective_bound)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return _answer(None, None, bound, Status.UNKNOWN, began), interrupted
    choice = picked(model, solver.boolean_value)
    cost = evaluate(problem, choice).cost
    if status == cp_model.OPTIMAL and model.unit == 1:
        bound = cost
    how = Status.OPTIMAL if bound >= cost else Status.FEASIBLE
    return _answer(choice, cost, min(bound, cost), how, began), interrupted


def _answer(choice: tuple[int, ...] | None, cost: int | None, bound: int, status: Status, began: float) -> Solution:
    return Solution(choice, cost, bound, status, "cpsat", time.perf_counter() - began)
