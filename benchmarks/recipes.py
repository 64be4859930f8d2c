"""Does the chosen plan lose to a standard recipe? Measured step times on eight virtual CPU devices, as ratios in one
run.

    python benchmarks/recipes.py --out benchmarks/results/recipes.jsonl

For each model: the chosen plan, data parallel, FSDP, tensor parallel and a two-stage pipeline of data-parallel stages,
all compiled first, then stepped in turn, round after round, so that a change of the machine's load meets all of them. A
row holds the median and the least of each, and the chosen plan's median over the best recipe's, which should be at most
1.00. The ratio is also taken round by round, and its quartiles say how far to trust it.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from recording import append, environment, load

import planner
from planner import models
from planner.core.hardware import Cluster
from planner.errors import PlannerError

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "chosen": {},
    "data": {"recipe": "data", "stages": 1},
    "fsdp": {"recipe": "fsdp", "stages": 1},
    "tensor": {"recipe": "tensor", "stages": 1},
    "pipeline x data": {"recipe": "data", "stages": 2},
}
"""Name -> pins."""

CASES: Mapping[str, Mapping[str, Any]] = {
    "gpt-tiny": {"batch_size": 16, "sequence": 128, "hidden": 256, "vocabulary": 2048},
    "moe-tiny": {"batch_size": 16, "sequence": 128, "hidden": 128, "group": 128, "vocabulary": 1024},
    "wresnet-tiny": {"batch_size": 32},
    "llama-tiny": {"batch_size": 16, "sequence": 128, "hidden": 256, "inner": 512, "vocabulary": 2048},
}
"""Model -> settings with which a step takes 50 to 500 ms on two cores."""


@dataclass
class Running:
    """A compiled plan and its state, stepped again and again."""

    step: Callable[..., Any]
    state: Any
    batch: Any

    def once(self) -> float:
        """Seconds of one step, to the last array."""
        began = time.perf_counter()
        self.state, metrics = self.step(self.state, self.batch)
        jax.block_until_ready((self.state, metrics))
        return time.perf_counter() - began


def main() -> None:
    """Measure every model, print a table, append rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "recipes.jsonl")
    parser.add_argument("--rounds", type=int, default=15, help="steps of each plan that are measured")
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    cluster = planner.cluster("cpu-8")
    print("measured ← predicted; the ratio with its quartiles over rounds")
    print(f"{'model':<14}" + "".join(f"{name:>20}" for name in RECIPES) + f"{'chosen / best':>24}")
    for name in options.models:
        row = measure(name, cluster, options.rounds)
        append(options.out, row)
        print(line(row), flush=True)


def measure(name: str, cluster: Cluster, rounds: int) -> dict[str, Any]:
    """Plan, compile, step in turn."""
    settings = CASES[name]
    model = models.build(name, dtype="float32", **settings)
    plans: dict[str, planner.Plan] = {}
    refused: dict[str, str] = {}
    for recipe, pins in RECIPES.items():
        try:
            plans[recipe] = planner.plan(model, cluster, **pins)
        except PlannerError as error:
            refused[recipe] = str(error)
    running = {recipe: started(plan, model) for recipe, plan in plans.items()}
    before = load()
    times = in_turn(running, rounds)
    medians = {recipe: statistics.median(series) for recipe, series in times.items()}
    best = min((r for r in medians if r != "chosen"), key=lambda r: medians[r])
    ratios = sorted(a / b for a, b in zip(times["chosen"], times[best], strict=True))
    return {
        "model": name, "settings": dict(settings), "dtype": "float32", "rounds": rounds, "profile": cluster.name,
        "measured_s": {r: round(t, 5) for r, t in medians.items()},
        "measured_min_s": {r: round(min(series), 5) for r, series in times.items()},
        "predicted_s": {r: round(p.step_time_s, 5) for r, p in plans.items()},
        "plans": {r: described(p) for r, p in plans.items()}, "refused": refused, "best_recipe": best,
        "chosen_over_best": round(medians["chosen"] / medians[best], 4),
        "chosen_over_best_quartiles": [round(q, 4) for q in statistics.quantiles(ratios, n=4)],
        "load_before": before, "load_after": load(), **environment(),
    }


def started(plan: planner.Plan, model: models.ZooModel) -> Running:
    """Compile, and take two steps that are not counted."""
    step, state = plan.compile(model, jax.devices(), params=models.init(model), state=models.init_state(model))
    running = Running(step, state, models.random_batch(model))
    running.once()
    running.once()
    return running


def in_turn(running: Mapping[str, Running], rounds: int) -> dict[str, list[float]]:
    """Seconds of each step; the order turns by one each round, for who follows whom matters to caches."""
    names = list(running)
    times: dict[str, list[float]] = {name: [] for name in names}
    for n in range(rounds):
        for name in names[n % len(names):] + names[:n % len(names)]:
            times[name].append(running[name].once())
    return times


def described(plan: planner.Plan) -> dict[str, Any]:
    """What a plan is, in few words."""
    return {"stages": [{"mesh": s.mesh_shape, "summary": s.summary} for s in plan.stages],
            "microbatches": plan.microbatches}


def line(row: Mapping[str, Any]) -> str:
    """A row of the printed table."""
    cells = []
    for recipe in RECIPES:
        measured, predicted = row["measured_s"].get(recipe), row["predicted_s"].get(recipe)
        cells.append("refused" if measured is None else f"{measured * 1e3:.0f} ← {predicted * 1e3:.0f} ms")
    low, _, high = row["chosen_over_best_quartiles"]
    return (f"{row['model']:<14}" + "".join(f"{cell:>20}" for cell in cells) +
            f"{row['chosen_over_best']:>9.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
