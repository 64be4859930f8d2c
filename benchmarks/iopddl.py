"""Solve IOPDDL contest instances and set the results beside the best that the contest's teams found.

    python benchmarks/iopddl.py FOLDER_OR_FILES --threads 2 --out benchmarks/results/iopddl.jsonl

Time limits are the contest's where it gave one, and reading counts. The referee (`planner.core.problem.evaluate`)
prices every answer. One JSON row per instance: commit, machine, versions, cost, bound, gap, wall and processor time,
time to within 1 % of the final cost, peak memory. The last line is the score, the sum of best known / ours. Best known
costs are over all 20 teams and time limits of the contest (ASPLOS/EuroSys 2025).
"""

import argparse
import os
import resource
import time
from importlib.metadata import version
from pathlib import Path

from recording import append, environment, load

from planner.core.problem import evaluate
from planner.core.problem_io import read_problem
from planner.errors import ProblemError
from planner.solvers import SOLVERS, Progress, solve

BEST_KNOWN = {"A": 6_548_641_531, "G": 217_039, "M": 49_928_460_991, "S": 1_534_613_444}
"""Instance -> cost, from the contest's published results."""

LIMIT_S = {"A": 60.0, "G": 120.0, "M": 180.0, "S": 240.0}
"""Instance -> the contest's time limit."""

LANDING_S = 0.5
"""Seconds kept for what comes after the solver."""


def main() -> None:
    """Parse arguments, solve each instance, print a line and append a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("instances", nargs="+", type=Path, help="problem files, or folders of *.json.gz")
    parser.add_argument("--timeout", type=float, help="seconds per instance, reading included (default: the contest's)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--solver", default="auto", choices=tuple(SOLVERS))
    parser.add_argument("--out", type=Path, help="append the rows to this file, one JSON object a line")
    options = parser.parse_args()
    places: list[Path] = options.instances
    files = [f for p in places for f in (sorted(p.glob("*.json.gz")) if p.is_dir() else [p])]
    print(f"{'instance':<24}{'nodes':>7}{'cost':>18}{'/ best known':>14}{'gap':>9}{'wall s':>9}  status")
    score = 0.0
    made_with = environment() | {name: version(name) for name in ("numpy", "numba", "ortools")}
    for file in files:
        row = measure(file, options) | made_with
        ratio = "" if row["cost_over_best_known"] is None else f"{row['cost_over_best_known']:.4f}"
        gap = "" if row["gap"] is None else f"{row['gap']:.2%}"
        cost = "-" if row["cost"] is None else f"{row['cost']:,}"
        head = f"{row['instance']:<24}{row['nodes']:>7}{cost:>18}"
        print(f"{head}{ratio:>14}{gap:>9}{row['wall_s']:>9}  {row['status']}", flush=True)
        if row["cost_over_best_known"] is not None:
            score += 1 / float(str(row["cost_over_best_known"]))
        if options.out is not None:
            append(options.out, row)
    print(f"score {score:.4f}")


def measure(file: Path, options: argparse.Namespace) -> dict[str, object]:
    """One row: solve a file and let the referee price the answer."""
    began, spent = time.perf_counter(), time.process_time()
    problem = read_problem(file)
    read_s = time.perf_counter() - began
    name = problem.name.rsplit("-", 1)[-1]
    limit_s: float = options.timeout if options.timeout is not None else LIMIT_S.get(name, 60.0)
    seen: list[Progress] = []
    left_s = limit_s - read_s - LANDING_S
    found = solve(problem, timeout_s=left_s, threads=options.threads, seed=options.seed, solver=options.solver,
                  on_progress=seen.append)  # fmt: skip
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - spent
    near = [read_s + p.time_s for p in seen if found.cost is not None and p.cost <= 1.01 * found.cost]
    if found.choice is not None:
        verdict = evaluate(problem, found.choice)
        if not verdict.feasible or verdict.cost != found.cost:
            raise ProblemError(f"{file}: the solver says {found.cost}, the referee says {verdict}")
    best = BEST_KNOWN.get(name)
    return {
        "instance": problem.name,
        "nodes": len(problem.nodes),
        "edges": len(problem.edges),
        "cost": found.cost,
        "bound": found.bound,
        "gap": found.gap,
        "cost_over_best_known": found.cost / best if best and found.cost is not None else None,
        "status": str(found.status),
        "solver": found.solver,
        "timeout_s": limit_s,
        "threads": options.threads,
        "seed": options.seed,
        "wall_s": round(wall_s, 2),
        "cpu_s": round(cpu_s, 2),
        "read_s": round(read_s, 2),
        "within_1_percent_s": round(near[0], 2) if near else None,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "niced": os.nice(0) > 0,
        "load": load(),
    }


if __name__ == "__main__":
    main()
