"""Ctrl-C during a solve gives the best solution so far, at once and without a traceback."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SCRIPT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background may inherit that it is ignored
import random
from planner.core.problem import Edge, Node, Problem
from planner.solvers import auto, solve

draw = random.Random(1)
size, count = 6, 60
numbers = lambda n: tuple(draw.randint(0, 1000) for _ in range(n))
nodes = tuple(Node((0, 1), numbers(size), numbers(size)) for _ in range(count))
edges = tuple(Edge(*draw.sample(range(count), 2), numbers(size * size)) for _ in range(150))
auto.MAX_TERMS = LIMIT
problem = Problem("hard", nodes, edges, 400 * count)
found = solve(problem, timeout_s=120, solver="SOLVER", on_progress=lambda p: print("better", p.cost, flush=True))
print("done", found.status, found.choice is not None, flush=True)
"""


@pytest.mark.parametrize(("solver", "limit"), [("cpsat", 4_000_000), ("auto", 4_000_000), ("auto", 0)])
def test_returns_the_best_so_far(solver: str, limit: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT.replace("SOLVER", solver).replace("LIMIT", str(limit))],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    ) as run:  # fmt: skip
        assert run.stdout is not None and run.stderr is not None
        first = run.stdout.readline()
        assert first.startswith("better"), run.stderr.read()
        sent = time.perf_counter()
        run.send_signal(signal.SIGINT)
        rest = run.stdout.read()
        took = time.perf_counter() - sent
        errors = run.stderr.read()
    assert rest.splitlines()[-1] == "done feasible True", errors
    assert run.returncode == 0
    assert took < 30  # of 120 allowed
