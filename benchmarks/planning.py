"""How long planning takes, phase by phase: GPT-2.6B on 16 and GPT-39B on 64 V100s, Alpa's batch of 1,024.

    python benchmarks/planning.py --out benchmarks/results/planning.jsonl

Alpa needed 2,393 s for the second with its optimisations, over 40 h without (Zheng et al., OSDI 2022, Table 5). Nothing
is allocated. Phases are of the wall clock, so every row also says how loaded the machine was and how long it kept a
core busy in all.
"""

import argparse
import time
from pathlib import Path
from types import MappingProxyType

from recording import append, environment, load

import planner
from planner import models

CASES = MappingProxyType({"gpt-2.6b": 2, "gpt-39b": 8})
"""Model -> nodes of eight V100s."""

BATCH = 1024

DTYPE = "float16"
"""As in Alpa's evaluation: the dtype that V100s are fast in."""


def main() -> None:
    """Plan each case, print a line of phases, append a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "planning.jsonl")
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    options = parser.parse_args()
    for name in options.models:
        row = measure(name, CASES[name])
        append(options.out, row)
        print(f"{name} on {row['devices']} V100: {row['planning_s']:.1f} s, a core busy for {row['cpu_s']:.1f} s, "
              f"predicted step {row['predicted_step_s']:.2f} s, gap {row['gap']:.2%}, load {row['load_before']:.1f}")
        phases = row["phases_s"]
        assert isinstance(phases, dict)
        print("   " + " · ".join(f"{phase} {seconds:.2f} s" for phase, seconds in phases.items()), flush=True)


def measure(name: str, nodes: int) -> dict[str, object]:
    """One row: plan from the abstract model to the plan."""
    before = load()
    began, worked = time.perf_counter(), time.process_time()
    plan = planner.plan(models.build(name, batch_size=BATCH, dtype=DTYPE), planner.cluster("p3.16xlarge", nodes=nodes))
    planning_s, cpu_s = time.perf_counter() - began, time.process_time() - worked
    record = plan.record
    return {
        "model": name, "cluster": "p3.16xlarge", "devices": record.device_count, "batch_size": BATCH, "dtype": DTYPE,
        "planning_s": round(planning_s, 2), "cpu_s": round(cpu_s, 2),
        "phases_s": {k: round(v, 2) for k, v in plan.phases_s.items()},
        "predicted_step_s": plan.step_time_s, "predicted_mfu": round(plan.mfu, 4), "gap": round(plan.gap, 5),
        "microbatches": record.microbatches,
        "stages": [{"layers": s.layers, "mesh": s.mesh_shape, "summary": s.summary} for s in record.stages],
        "baselines_s": {b.name: b.step_time_s for b in plan.baselines}, "load_before": before, **environment(),
    }


if __name__ == "__main__":
    main()
