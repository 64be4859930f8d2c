"""Solve IOPDDL contest instances and set the results beside the best that the contest's teams found.

    python benchmarks/iopddl.py FOLDER_OR_FILES --timeout 60 --out benchmarks/results/iopddl.jsonl

The referee (`planner.core.problem.evaluate`) prices every answer. One JSON row per instance: commit, machine, versions,
cost, bound, gap, time. Best known costs are over all 20 teams and time limits of the contest (ASPLOS/EuroSys 2025).
"""

import argparse
import json
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

from planner.core.problem import evaluate
from planner.core.problem_io import read_problem
from planner.errors import ProblemError
from planner.solvers import SOLVERS, solve

BEST_KNOWN = {"A": 6_548_641_531, "G": 217_039, "M": 49_928_460_991, "S": 1_534_613_444}
"""Instance -> cost, from the contest's published results."""


def main() -> None:
    """Parse arguments, solve each instance, print a line and append a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("instances", nargs="+", type=Path, help="problem files, or folders of *.json.gz")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds per instance, reading not included")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--solver", default="auto", choices=tuple(SOLVERS))
    parser.add_argument("--out", type=Path, help="append the rows to this file, one JSON object a line")
    options = parser.parse_args()
    places: list[Path] = options.instances
    files = [f for p in places for f in (sorted(p.glob("*.json.gz")) if p.is_dir() else [p])]
    print(f"{'instance':<24}{'nodes':>7}{'cost':>18}{'/ best known':>14}{'gap':>9}{'solve s':>9}  status")
    for file in files:
        row = measure(file, options.solver, options.timeout, options.threads)
        ratio = "" if row["cost_over_best_known"] is None else f"{row['cost_over_best_known']:.4f}"
        gap = "" if row["gap"] is None else f"{row['gap']:.2%}"
        cost = "-" if row["cost"] is None else f"{row['cost']:,}"
        head = f"{row['instance']:<24}{row['nodes']:>7}{cost:>18}"
        print(f"{head}{ratio:>14}{gap:>9}{row['solve_s']:>9}  {row['status']}")
        if options.out is not None:
            with options.out.open("a") as out:
                out.write(json.dumps(row) + "\n")


def measure(file: Path, solver: str, timeout_s: float, threads: int) -> dict[str, object]:
    """One row: solve a file and let the referee price the answer."""
    began = time.perf_counter()
    problem = read_problem(file)
    read_s = time.perf_counter() - began
    found = solve(problem, timeout_s=timeout_s, threads=threads, solver=solver)
    if found.choice is not None:
        verdict = evaluate(problem, found.choice)
        if not verdict.feasible or verdict.cost != found.cost:
            raise ProblemError(f"{file}: the solver says {found.cost}, the referee says {verdict}")
    best = BEST_KNOWN.get(problem.name.rsplit("-", 1)[-1])
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
        "timeout_s": timeout_s,
        "threads": threads,
        "solve_s": round(found.time_s, 2),
        "read_s": round(read_s, 2),
        **environment(),
    }


def environment() -> dict[str, object]:
    """What a row was measured with."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "commit": commit.stdout.strip(),
        "machine": f"{platform.machine()} {processor()}",
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "ortools": version("ortools"),
    }


def processor() -> str:
    """The processor's name, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor()
    lines = cpuinfo.read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
