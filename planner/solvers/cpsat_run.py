"""Run CP-SAT in a thread of its own, so that Ctrl-C, SIGTERM and a stop from elsewhere end it with its best so far.

In the main thread its C++ code would keep signals waiting, or catch Ctrl-C for itself and hide it from the caller.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

from ortools.sat.python import cp_model

POLL_S = 0.02
"""Seconds between looks at `stop`."""


def run_cpsat(
    solver: cp_model.CpSolver,
    model: cp_model.CpModel,
    watch: cp_model.CpSolverSolutionCallback | None,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[cp_model.CpSolverStatus, bool]:
    """Solve; the status, and whether a KeyboardInterrupt ended it.

    Args:
      stop: asked every now and then; True ends the search.
    """
    solver.parameters.catch_sigint_signal = False
    interrupted = False
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(solver.solve, model, watch)
        try:
            while not job.done():
                wait([job], POLL_S)
                if stop():
                    solver.stop_search()
        except KeyboardInterrupt:  # wherever in the loop it struck: else the pool would wait for the time limit
            interrupted = True
            while not job.done():
                solver.stop_search()
                wait([job], POLL_S)
    return job.result(), interrupted
