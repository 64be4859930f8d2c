"""`planner solve`: an intra-operator problem in the format of the IOPDDL contest."""

import argparse

from planner.cli.command import FAILED, OK, Command, Output
from planner.core.problem import evaluate
from planner.core.problem_io import read_problem


def add(parser: argparse.ArgumentParser) -> None:
    """The problem and the limits."""
    parser.add_argument("problem", metavar="FILE", help="a problem as JSON, plain or gzipped")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="time allowed (default 60)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="worker threads (default 1)")
    parser.add_argument("--solver", default="auto", metavar="NAME", help="auto, cpsat, elimination, exhaustive")
    parser.add_argument("--json", action="store_true", help="print the solution as JSON")


def run(args: argparse.Namespace, out: Output) -> int:
    """Solve; print improvements as comments and the choice as the last line. 1 if no choice was found."""
    problem = read_problem(args.problem)
    from planner.solvers import Progress, solve

    def tell(news: Progress) -> None:
        if not args.json:
            out.text(f"# {news.time_s:.2f} s: cost {news.cost:,}, bound {news.bound:,}")

    solution = solve(problem, timeout_s=args.timeout, threads=args.threads, solver=args.solver, on_progress=tell)
    priced = None if solution.choice is None else evaluate(problem, solution.choice)
    if args.json:
        out.json({"status": str(solution.status), "solver": solution.solver, "time_s": solution.time_s,
                  "cost": None if priced is None else priced.cost, "bound": solution.bound,
                  "peak_usage": None if priced is None else priced.peak_usage,
                  "choice": solution.choice})
        return OK if solution.choice is not None else FAILED
    cost = "none" if priced is None else f"{priced.cost:,}"
    out.text(f"# {solution.status} after {solution.time_s:.2f} s by {solution.solver}: cost {cost}, "
             f"bound {solution.bound:,}")
    if solution.choice is None:
        return FAILED
    out.text(f"[{','.join(map(str, solution.choice))}]")
    return OK


COMMAND = Command("solve", "solve an intra-operator problem file of the IOPDDL contest", (
    "planner solve example.json --timeout 10", "planner solve model_g.json.gz --timeout 120 --threads 8"), add, run)
