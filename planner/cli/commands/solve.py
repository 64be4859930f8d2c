"""`planner solve`: an intra-operator problem in the format of the IOPDDL contest."""

import argparse
import signal
import time
from types import FrameType

from planner.cli.command import FAILED, OK, Command, Output
from planner.core.problem import Solution, evaluate
from planner.core.problem_io import read_problem

LEAST_S = 0.1
"""Seconds a solver gets at least, even if reading took all the time allowed."""

LANDING_S = 1.0
"""Seconds kept for start-up, the referee and printing, where the time allowed is ten times as long."""


def add(parser: argparse.ArgumentParser) -> None:
    """The problem and the limits."""
    parser.add_argument("problem", metavar="FILE", help="a problem as JSON, plain or gzipped")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS",
                        help="time allowed, reading included (default 60)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="worker threads (default 1)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all random choices (default 0)")
    parser.add_argument("--solver", default="auto", metavar="NAME", help="auto, cpsat, elimination, exhaustive")
    parser.add_argument("--json", action="store_true", help="print the solution as JSON")


def run(args: argparse.Namespace, out: Output) -> int:
    """Solve; print improvements as comments and the choice as the last line. 1 if no choice was found.

    Ctrl-C and SIGTERM end the search with the best so far.
    """
    began = time.perf_counter()
    problem = read_problem(args.problem)
    from planner.solvers import Progress, solve

    read_s = time.perf_counter() - began

    def tell(news: Progress) -> None:
        if not args.json:
            gap = (news.cost - news.bound) / max(news.cost, 1)
            out.text(f"# {read_s + news.time_s:.2f} s: cost {news.cost:,}, bound {news.bound:,}, gap {gap:.2%}")

    timeout_s = args.timeout
    if timeout_s > 0:
        timeout_s = max(LEAST_S, timeout_s - read_s - min(LANDING_S, 0.1 * timeout_s))
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        solution = solve(problem, timeout_s=timeout_s, threads=args.threads, solver=args.solver, seed=args.seed,
                         on_progress=tell)
    finally:
        signal.signal(signal.SIGTERM, before)
    priced = None if solution.choice is None else evaluate(problem, solution.choice)
    if args.json:
        out.json({"status": str(solution.status), "solver": solution.solver, "time_s": solution.time_s,
                  "cost": None if priced is None else priced.cost, "bound": solution.bound,
                  "peak_usage": None if priced is None else priced.peak_usage,
                  "choice": solution.choice})
        return OK if solution.choice is not None else FAILED
    out.text(f"# {_summary(solution, None if priced is None else priced.cost, time.perf_counter() - began)}")
    if solution.choice is None:
        return FAILED
    out.text(f"[{','.join(map(str, solution.choice))}]")
    return OK


def _summary(solution: Solution, cost: int | None, spent_s: float) -> str:
    numbers = "cost none" if cost is None else f"cost {cost:,}"
    gap = "" if solution.gap is None else f", gap {solution.gap:.2%}"
    return f"{solution.status} after {spent_s:.2f} s by {solution.solver}: {numbers}, bound {solution.bound:,}{gap}"


def _interrupt(number: int, frame: FrameType | None) -> None:
    """A signal to end is taken as Ctrl-C."""
    raise KeyboardInterrupt


COMMAND = Command("solve", "solve an intra-operator problem file of the IOPDDL contest", (
    "planner solve example.json --timeout 10", "planner solve model_g.json.gz --timeout 120 --threads 8"), add, run)
