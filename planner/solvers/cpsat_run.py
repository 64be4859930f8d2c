"""Run CP-SAT in a thread of its own, so that Ctrl-C, SIGTERM and a stop from elsewhere end it with its best so far.

In the main thread its C++ code would keep signals waiting, or catch Ctrl-C for itself and hide it from the caller.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from ortools.sat.python import cp_model

from planner.solvers.waiting import wait_for


def run_cpsat(
    solver: cp_model.CpSolver,
    model: cp_model.CpModel,
    watch: cp_model.CpSolverSolutionCallback | None,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[cp_model.CpSolverStatus, bool]:
    """Solve; the status, and whether a KeyboardInterrupt ended it.

    Args:
      stop: asked every now and then; True ends the search.

    Raises:
      KeyboardInterrupt: it struck before the search was under way.
    """
    solver.parameters.catch_sigint_signal = False
    job: Future[cp_model.CpSolverStatus] | None = None
    interrupted = False
    with ThreadPoolExecutor(1) as pool:
        try:
            job = pool.submit(solver.solve, model, watch)
            wait_for(job, lambda: stop() and solver.stop_search())
        except KeyboardInterrupt:  # wherever it struck: else the pool would wait for the time limit
            interrupted = True
            after = pool.submit(lambda: None)  # runs when the search has ended, even if it was never known as `job`
            wait_for(after, solver.stop_search)
    if job is None:
        raise KeyboardInterrupt
    return job.result(), interrupted
