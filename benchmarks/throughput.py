"""What the driver of a pipeline costs, and what a pipeline makes of the same math; time to resume. On eight virtual CPU
devices, as ratios in one run.

    python benchmarks/throughput.py --out benchmarks/results/throughput.jsonl

For each case two plans are compiled: pipeline stages of data-parallel devices, and the same microbatches in one stage
over all devices. They are stepped in turn. A row holds, of the pipelined plan: seconds of a step; seconds after which
its call returns (it waits for no device, but for room in their queues and for a core); processor time of the driver's
thread in it, which is what the driver itself takes, in parts of the step and by call of a program (also the least of
all steps, for other programs make it take longer); and the ratio of both plans' steps. Then a checkpoint of the
pipelined run is written, and resumed: traced, read and placed.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from recording import append, environment, load

import planner
from planner import models
from planner.core.hardware import Cluster

CASES: Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]] = {
    "gpt 2 stages": ("gpt-tiny", {"batch_size": 32, "sequence": 64, "hidden": 192, "vocabulary": 1024},
                     {"stages": 2, "microbatches": 4}),
    "gpt 2 stages, wide": ("gpt-tiny", {"batch_size": 32, "sequence": 64, "hidden": 384, "vocabulary": 1024},
                           {"stages": 2, "microbatches": 4}),
    "gpt 4 stages": ("gpt-tiny", {"batch_size": 32, "sequence": 64, "hidden": 256, "vocabulary": 1024, "layers": 8},
                     {"stages": 4, "microbatches": 4}),
    "wresnet 2 stages": ("wresnet-tiny", {"batch_size": 32}, {"stages": 2, "microbatches": 4}),
}
"""Name -> model, settings, pins of the pipelined plan."""


@dataclass
class Running:
    """A compiled plan, stepped again and again; what each step took."""

    step: Callable[..., Any]
    state: Any
    batch: Any
    steps_s: list[float] = field(default_factory=list)
    calls_s: list[float] = field(default_factory=list)
    driver_s: list[float] = field(default_factory=list)

    def once(self) -> None:
        """One step, waited for."""
        began, busy = time.perf_counter(), time.thread_time()
        self.state, metrics = self.step(self.state, self.batch)
        self.driver_s.append(time.thread_time() - busy)
        self.calls_s.append(time.perf_counter() - began)
        jax.block_until_ready((self.state, metrics))
        self.steps_s.append(time.perf_counter() - began)

    def forget(self) -> None:
        """Leave out the steps so far, which compiled."""
        for series in (self.steps_s, self.calls_s, self.driver_s):
            series.clear()


def main() -> None:
    """Measure every case, print a table, append rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "throughput.jsonl")
    parser.add_argument("--rounds", type=int, default=15, help="steps of each plan that are measured")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    cluster = planner.cluster("cpu-8")
    print(f"{'case':<20}{'step':>10}{'stage':>10}{'call':>10}{'driver':>10}{'share':>8}{'a call':>10}"
          f"{'÷ one stage':>13}{'resume':>10}")
    for name in options.cases:
        row = measure(name, cluster, options.rounds)
        append(options.out, row)
        print(line(row), flush=True)


def measure(name: str, cluster: Cluster, rounds: int) -> dict[str, Any]:
    """Plan, compile, step in turn, save, resume."""
    model_name, settings, pins = CASES[name]
    model = models.build(model_name, dtype="float32", **settings)
    plans = {"pipelined": planner.plan(model, cluster, recipe="data", schedule="1f1b", **pins),
             "one stage": planner.plan(model, cluster, recipe="data", stages=1, microbatches=pins["microbatches"])}
    running = {key: started(plan, model) for key, plan in plans.items()}
    before = load()
    for n in range(rounds):
        for key in list(running)[::1 if n % 2 else -1]:
            running[key].once()
    piped, one = running["pipelined"], running["one stage"]
    ratios = sorted(a / b for a, b in zip(piped.steps_s, one.steps_s, strict=True))
    step_s, driver_s = statistics.median(piped.steps_s), statistics.median(piped.driver_s)
    calls = program_calls(piped.step)
    return {
        "case": name, "model": model_name, "settings": dict(settings), "pins": dict(pins), "rounds": rounds,
        "step_s": round(step_s, 5), "predicted_s": round(plans["pipelined"].step_time_s, 5),
        "microbatch_of_a_stage_s": round(step_s / (pins["microbatches"] + pins["stages"] - 1), 5),
        "call_returns_s": round(statistics.median(piped.calls_s), 5), "driver_s": round(driver_s, 5),
        "driver_min_s": round(min(piped.driver_s), 5),
        "driver_share": round(driver_s / step_s, 4), "program_calls": calls,
        "driver_s_a_call": round(driver_s / calls, 6), "one_stage_s": round(statistics.median(one.steps_s), 5),
        "pipelined_over_one_stage": round(statistics.median(ratios), 4),
        "quartiles": [round(q, 4) for q in statistics.quantiles(ratios, n=4)],
        **resumed(plans["pipelined"], model, piped.state),
        "load_before": before, "load_after": load(), **environment(),
    }


def started(plan: planner.Plan, model: models.ZooModel) -> Running:
    """Compile, and take two steps that are not counted."""
    step, state = plan.compile(model, jax.devices(), params=models.init(model), state=models.init_state(model))
    running = Running(step, state, jax.tree_util.tree_map(np.asarray, models.random_batch(model)))
    running.once()
    running.once()
    running.forget()
    return running


def program_calls(step: Any) -> int:
    """Calls of programs in a step: tasks, and per stage zeros and the end of the sums, and rounds of the update."""
    parts = step.parts
    return len(parts.order) + 2 * len(parts.stages) + len(parts.update.rounds)


def resumed(plan: planner.Plan, model: models.ZooModel, state: Any) -> dict[str, Any]:
    """Seconds to save a state, and to resume from it: tracing, reading and placing."""
    with tempfile.TemporaryDirectory() as place:
        began = time.perf_counter()
        with planner.Checkpoints(place, plan) as checkpoints:
            checkpoints.save(1, state)
            kept = time.perf_counter() - began
        saved = time.perf_counter() - began
        size = sum(path.stat().st_size for path in Path(place).rglob("*") if path.is_file())
        began = time.perf_counter()
        run = planner.Checkpoints(place, plan).resume(model, jax.devices())
        jax.block_until_ready(run.state)
        return {"save_kept_loop_s": round(kept, 4), "save_s": round(saved, 4),
                "resume_s": round(time.perf_counter() - began, 4), "checkpoint_bytes": size}


def line(row: Mapping[str, Any]) -> str:
    """A row of the printed table."""
    def ms(key: str) -> str:
        return f"{1e3 * row[key]:.1f} ms"

    return (f"{row['case']:<20}{ms('step_s'):>10}{ms('microbatch_of_a_stage_s'):>10}{ms('call_returns_s'):>10}"
            f"{ms('driver_s'):>10}{100 * row['driver_share']:>6.1f} %{1e6 * row['driver_s_a_call']:>7.0f} µs"
            f"{row['pipelined_over_one_stage']:>13.2f}{row['resume_s']:>8.2f} s")


if __name__ == "__main__":
    main()
