"""How long a pipeline's devices wait for each other: measured, in closed form and simulated, for every schedule.

    python benchmarks/bubble.py
    python benchmarks/bubble.py --ranks 4 --schedules 1f1b zb-v --task-ms 20

Steps run through the real driver on 2, 4 and 8 virtual CPU devices, one per rank, with twice as many microbatches as
ranks. Devices of one machine share its cores, so arithmetic on eight of them would tell of the cores. Here the work is
waiting (`waiting.py`): a forward, an input gradient and a weight gradient of a microbatch take 100 ms each on a rank,
divided among its stages, and occupy the device and no core. What is measured is wall time, from the call of a step to
its last result: the least of several steps after the first, as other programs on the machine only add (a row has the
median too). It has everything a step has: dispatch, hand-overs, the ends of gradient sums and the weight update; all
that comes beyond the work counts as waiting:

    bubble = 1 - microbatches × 300 ms / step

Beside it stand the closed form of the schedule (`planner/schedules`), and the simulation, which ZB-V has alone. A row
holds one schedule at one number of ranks; ratios are within one run.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from recording import append, environment, load
from waiting import register, waiting_model

import planner
from planner.core.layout import Layout, Placement, placed
from planner.core.plan import PlanRecord
from planner.runtime import compile_plan
from planner.schedules import SCHEDULES, TaskTimes, in_flight
from planner.simulate import run, uniform

NAMES = ("gpipe", "1f1b", "interleaved", "zb-h1", "zb-v")
ROUNDS = 2
"""Microbatches per rank."""


def main() -> None:
    """Measure, append rows, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "bubble.jsonl")
    parser.add_argument("--ranks", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--schedules", nargs="+", default=list(NAMES), choices=NAMES)
    parser.add_argument("--task-ms", type=float, default=100.0, help="of each of the three tasks of a microbatch")
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    with tempfile.TemporaryDirectory() as folder:
        register(Path(folder))
    rows: list[dict[str, Any]] = []
    for ranks in options.ranks:
        for name in options.schedules:
            rows.append(measured(name, ranks, options.task_ms / 1e3, options.steps))
            append(options.out, rows[-1] | {"load": load()} | environment())
            print(line(rows[-1]), flush=True)
    print(table(rows))


def measured(name: str, ranks: int, task_s: float, steps: int) -> dict[str, Any]:
    """One schedule at one number of ranks."""
    schedule, microbatches = SCHEDULES[name], ROUNDS * ranks
    layout = placed(schedule.placement, ranks, 1 if schedule.placement is Placement.LINE else 2)
    each = TaskTimes(*(task_s / layout.chunks,) * 3)
    found = step_times_s(name, layout, each, microbatches, steps)
    works = [uniform(each.forward_s, each.backward_s, each.weight_s)] * layout.stages
    simulated = run(schedule, works, microbatches, layout=layout, intervals=False).step_time_s
    closed, work = schedule.step_time(layout, microbatches, each), microbatches * 3 * task_s
    return {"schedule": name, "ranks": ranks, "stages": layout.stages, "microbatches": microbatches, "task_s": task_s,
            "step_s": min(found), "median_step_s": statistics.median(found), "closed_s": closed,
            "simulated_s": simulated, "bubble": 1 - work / min(found),
            "closed_bubble": None if closed is None else 1 - work / closed, "simulated_bubble": 1 - work / simulated}


def step_times_s(name: str, layout: Layout, each: TaskTimes, microbatches: int, steps: int) -> list[float]:
    """Wall time of steps after the first."""
    model = waiting_model(layout.stages, each, microbatches)
    cluster = replace(planner.cluster("cpu-8"), devices_per_node=1)
    record = cut(planner.plan(model, cluster, stages=1, microbatches=microbatches).record, name, layout)
    step, state = compile_plan(record, model, jax.devices()[:layout.ranks])
    found: list[float] = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        state, metrics = step(state, model.batch)
        jax.block_until_ready((state, metrics))
        found.append(time.perf_counter() - start)
    return found[1:]


def cut(record: PlanRecord, schedule: str, layout: Layout) -> PlanRecord:
    """A plan for one device, cut into stages of a layer each on the ranks of a schedule."""
    count, last = layout.stages, len(record.ops)
    ops = [(2 * s, 2 * s + 2 if s < count - 1 else last) for s in range(count)]
    held, whole = in_flight(schedule, layout, record.microbatches), record.stages[0]
    stages = tuple(replace(whole, index=s, layers=(s, s + 1), ops=ops[s], devices=(layout.rank_of[s],),
                           in_flight=held[s], layer_times=()) for s in range(count))
    return replace(record, cluster=replace(record.cluster, devices_per_node=layout.ranks), device_count=layout.ranks,
                   schedule=schedule, stages=stages, params=tuple(replace(p, home=s) for s, p in
                                                                  enumerate(record.params)),
                   layers=tuple(replace(record.layers[0], ops=mine) for mine in ops),
                   ops=tuple(replace(op, layer=min(n // 2, count - 1)) for n, op in enumerate(record.ops)))


def line(row: dict[str, Any]) -> str:
    """A row, for people."""
    closed = "      –" if row["closed_bubble"] is None else f"{100 * row['closed_bubble']:5.1f} %"
    return (f"{row['schedule']:<13}{row['ranks']} ranks, {row['microbatches']:2} microbatches: {row['step_s']:.3f} s, "
            f"bubble {100 * row['bubble']:5.1f} % measured, {closed} closed form, "
            f"{100 * row['simulated_bubble']:5.1f} % simulated")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Step time as a ratio to 1F1B's of the same run, measured and simulated."""
    ones = {row["ranks"]: row for row in rows if row["schedule"] == "1f1b"}
    lines = [""]
    for row in rows:
        if one := ones.get(row["ranks"]):
            ratio, simulated = (row[key] / one[key] for key in ("step_s", "simulated_s"))
            lines.append(f"{row['schedule']:<13}{row['ranks']} ranks: step {ratio:.3f} of 1F1B's, "
                         f"simulated {simulated:.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
