"""The planner's own stage problems, solved by `auto` and by CP-SAT alone under one time limit; and what refining gains.

    python benchmarks/stage_problems.py --out benchmarks/results/stage_problems.jsonl

Each case is a model on a cluster whose best pipeline is built once. Of its stages come two kinds of problem: `points`,
the choice among the promising frontier points per layer that refinement hands to the solver, and `whole`, all choices
of all layers of the stage at once (`planner/intraop/stage_as_problem.py`), with the layers recomputed that the plan
recomputes. One JSON row per problem and solver, with the referee's cost; one row `refinement` per case, with step time
and gap before and after. The last lines say how costs and times compare.
"""

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

from recording import append, environment, load

import planner
from planner import models
from planner.candidates import Outcome, best_pipeline, refined
from planner.core.pins import Pins
from planner.core.problem import Problem, evaluate
from planner.errors import ProblemError
from planner.intraop.refine import Stage, approach, open_problem
from planner.intraop.stage_as_problem import StageLayer, stage_as_problem
from planner.mesh_tables import mesh_table
from planner.prepared import prepare
from planner.slice_costs import Entry
from planner.solvers import solve
from planner.spaces import mesh_spaces
from planner.trace import trace_program

SOLVERS = ("cpsat", "auto")


@dataclass(frozen=True)
class Case:
    """A zoo model in a dtype (None: its own) and batch on nodes of a cluster, in as many microbatches."""

    model: str
    cluster: str
    nodes: int
    batch: int
    microbatches: int
    dtype: str | None = "float16"


CASES = MappingProxyType({
    "gpt-2.6b in 64": Case("gpt-2.6b", "p3.16xlarge", 1, 1024, 64),
    "gpt-2.6b in 256": Case("gpt-2.6b", "p3.16xlarge", 1, 1024, 256),
    "gpt-2.6b in 512": Case("gpt-2.6b", "p3.16xlarge", 1, 1024, 512),
    "gpt-2.6b in 1024": Case("gpt-2.6b", "p3.16xlarge", 1, 1024, 1024),
    "moe-2.4b in 64": Case("moe-2.4b", "p3.16xlarge", 1, 1024, 64),
    "moe-2.4b in 128": Case("moe-2.4b", "p3.16xlarge", 1, 1024, 128),
    "llama-8b in 32": Case("llama-8b", "dgx-a100-40gb", 1, 64, 32, None),
    "wresnet-2b in 16": Case("wresnet-2b", "p3.16xlarge", 1, 1536, 16, None),
    "gpt-1.3b in 16, unbound": Case("gpt-1.3b", "dgx-a100", 1, 256, 16),
    "wresnet-1b in 4, unbound": Case("wresnet-1b", "dgx-a100", 1, 256, 4, None),
})
"""Models in so many microbatches. Memory binds on all but the last two."""

MAX_ENTRIES = 1_000_000
"""Entries of the edges of the largest problem that is given to CP-SAT alone, which builds its model whatever the time
limit: 11 million took it minutes."""


def main() -> None:
    """Build each case, solve its problems with each solver, print a line and append a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "stage_problems.jsonl")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds per problem and solver (default 10)")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    made_with = environment() | {"ortools": version("ortools"), "numpy": version("numpy"),
                                 "timeout_s": options.timeout, "threads": options.threads}
    pairs: list[tuple[dict[str, object], ...]] = []
    for name in options.cases:
        outcome, row = refinement(name)
        append(options.out, row | made_with)
        for kind, problem, hint in problems(outcome):
            solvers = SOLVERS if sum(len(e.costs) for e in problem.edges) <= MAX_ENTRIES else SOLVERS[1:]
            rows = tuple(measure(name, kind, problem, solver, hint, options.timeout, options.threads)
                         for solver in solvers)
            for row in rows:
                append(options.out, row | made_with)
            if rows[1:]:
                pairs.append(rows)
    summarise(pairs)


def refinement(name: str) -> tuple[Outcome, dict[str, object]]:
    """The stages of a case before refinement (refining keeps its own), and a row of what refinement does to them."""
    case = CASES[name]
    cluster = planner.cluster(case.cluster, nodes=case.nodes)
    model = models.build(case.model, batch_size=case.batch, **({"dtype": case.dtype} if case.dtype else {}))
    prepared = prepare(trace_program(model, case.microbatches))
    spaces = mesh_spaces(cluster, Pins())
    tables = {space: mesh_table(prepared, space, cluster, Pins()) for s in spaces for space in s.meshes}
    outcome = best_pipeline(prepared, cluster, spaces, tables, Pins())
    if outcome.candidate is None:
        raise ProblemError(f"{name} does not fit its cluster", "use more devices")
    before_s = outcome.candidate.step_time_s
    again = best_pipeline(prepared, cluster, spaces, tables, Pins())
    began = time.perf_counter()
    better = refined(again, float("inf"))
    spent = time.perf_counter() - began
    assert better.candidate is not None
    after_s = better.candidate.step_time_s
    gaps = 1 - outcome.lower_bound_s / before_s, 1 - better.lower_bound_s / after_s
    print(f"{name}: step {before_s:.5g} s -> {after_s:.5g} s ({after_s / before_s - 1:.2%}), gap {gaps[0]:.2%} -> "
          f"{gaps[1]:.2%}, {spent:.1f} s", flush=True)
    return outcome, {
        "case": name, "kind": "refinement", "before_s": before_s, "after_s": after_s,
        "bound_before_s": outcome.lower_bound_s, "bound_after_s": better.lower_bound_s, "refinement_s": round(spent, 2),
        "stages": len(better.candidate.stages), "solvers": [p.solver for p in better.candidate.stages],
        "load_before": load()}


def problems(outcome: Outcome) -> Iterator[tuple[str, Problem, tuple[int, ...]]]:
    """(kind, problem, the plan's choice in it) of every stage."""
    builder = outcome.builder
    choice = builder.build(builder.costs.times_s)
    assert choice is not None
    for entry in builder.entries(choice):
        stage, chosen = stage_of(outcome, entry), builder.costs.choice(entry)
        known = approach(stage, chosen)
        some, walk = open_problem(known), known.ranges.walk
        if some is not None and walk is not None:
            yield "points", some.problem, some.choice(walk.rows, walk.states)
        steps = chosen.steps
        whole = stage_as_problem(stage.graph, [StageLayer(s.frontier.layer, s.frontier.before, s.frontier.after,
                                                          s.way) for s in steps],
                                 stage.in_flight, int(stage.limit_bytes))
        states = [steps[0].before, *(s.after for s in steps)]
        yield "whole", whole.problem, whole.choice(states, [s.frontier.choice(s.row, s.before, s.after).tolist()
                                                            for s in steps])


def stage_of(outcome: Outcome, entry: Entry) -> Stage:
    """A slice as a stage to refine."""
    costs = outcome.builder.costs
    program = costs.prepared.program
    return Stage(program.micro, costs.tables[costs.space(entry)], entry[2], entry[3], costs.flights[entry[0]],
                 program.microbatches, costs.hardware.device.usable_bytes)


def measure(case: str, kind: str, problem: Problem, solver: str, hint: tuple[int, ...], timeout_s: float, threads: int
            ) -> dict[str, object]:
    """One row: solve a problem from the plan's choice, and let the referee price the answer."""
    began, spent = time.perf_counter(), time.process_time()
    found = solve(problem, timeout_s=timeout_s, threads=threads, solver=solver, hint=hint)
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - spent
    if found.choice is not None:
        verdict = evaluate(problem, found.choice)
        if not verdict.feasible or verdict.cost != found.cost:
            raise ProblemError(f"{case}: {solver} says {found.cost}, the referee says {verdict}")
    cost = "-" if found.cost is None else f"{found.cost:,}"
    gap = "-" if found.gap is None else f"{found.gap:.3%}"
    print(f"   {kind:<7}{len(problem.nodes):>6} nodes {solver:<6}{cost:>22}{gap:>10}{wall_s:>8.2f} s  {found.status}",
          flush=True)
    return {
        "case": case, "kind": kind, "nodes": len(problem.nodes), "edges": len(problem.edges), "cost": found.cost,
        "bound": found.bound, "gap": found.gap, "status": str(found.status), "solver": solver, "did": found.solver,
        "wall_s": round(wall_s, 3), "cpu_s": round(cpu_s, 3), "load_before": load(),
    }


def summarise(pairs: list[tuple[dict[str, object], ...]]) -> None:
    """How `auto` compares with CP-SAT alone: costs, and the geometric mean of times, by kind."""
    for kind in ("points", "whole"):
        both = [p for p in pairs if p[0]["kind"] == kind]  # problems that were given to both
        solved = [p for p in both if p[0]["cost"] is not None and p[1]["cost"] is not None]
        only = sum(p[0]["cost"] is None and p[1]["cost"] is not None for p in both)
        if not solved:
            continue
        costs = [sum(float(str(p[n]["cost"])) for p in solved) for n in range(2)]
        times = [math.log(float(str(p[1]["wall_s"])) / max(float(str(p[0]["wall_s"])), 1e-3)) for p in both]
        worse = [p[1]["case"] for p in solved if float(str(p[1]["cost"])) > float(str(p[0]["cost"]))]
        print(f"{kind}: {len(both)} problems; auto's costs are {costs[1] / costs[0]:.6f} of CP-SAT's in "
              f"{math.exp(sum(times) / len(times)):.3f} of the time (geometric mean); {only} solved by auto only; "
              f"worse on {worse or 'none'}")


if __name__ == "__main__":
    main()
