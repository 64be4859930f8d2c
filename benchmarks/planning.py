"""How long planning takes, phase by phase: the cases of Alpa's and Aceso's tables, and Llama-8B on 64 H100.

    python benchmarks/planning.py --out benchmarks/results/planning.jsonl

Alpa needed 2,393 s for GPT-39B on 64 V100 with its optimisations, over 40 h without (Zheng et al., OSDI 2022, Table 5),
and 4,092 s for GPT-1.3B on 4, as Aceso measured it, which needed 99 s (Liu et al., EuroSys 2024). Nothing is allocated.
Phases are of the wall clock, so every row also says how loaded the machine was and how long it kept a core busy in all.
Peak memory is that of the process so far: plan a case alone for its own.
"""

import argparse
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from recording import append, environment, load

import planner
from planner import models


@dataclass(frozen=True)
class Case:
    """A model, how large, and where it is planned for."""

    batch_size: int
    dtype: str
    cluster: str
    nodes: int
    devices_per_node: int | None = None
    sequence: int | None = None


CASES = MappingProxyType({
    "gpt-1.3b": Case(1024, "float16", "p3.16xlarge", 1, devices_per_node=4),
    "gpt-2.6b": Case(1024, "float16", "p3.16xlarge", 2),
    "llama-8b": Case(512, "bfloat16", "dgx-h100", 8, sequence=8192),
    "gpt-39b": Case(1024, "float16", "p3.16xlarge", 8),
})
"""V100s are fast in float16, as in Alpa's evaluation; batches of GPT are Alpa's."""


def main() -> None:
    """Plan each case, print a line of phases, append a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "planning.jsonl")
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    options = parser.parse_args()
    for name in options.models:
        row = measure(name, CASES[name])
        append(options.out, row)
        print(f"{name} on {row['devices']} of {row['cluster']}: {row['planning_s']:.1f} s, a core busy for "
              f"{row['cpu_s']:.1f} s, {row['peak_gib']:.2f} GiB at most, step {row['predicted_step_s']:.2f} s, "
              f"gap {row['gap']:.2%}, load {row['load_before']:.1f}")
        phases = row["phases_s"]
        assert isinstance(phases, dict)
        print("   " + " · ".join(f"{phase} {seconds:.2f} s" for phase, seconds in phases.items()), flush=True)


def measure(name: str, case: Case) -> dict[str, object]:
    """One row: plan from the abstract model to the plan."""
    before = load()
    began, worked = time.perf_counter(), time.process_time()
    size = {} if case.sequence is None else {"sequence": case.sequence}
    plan = planner.plan(models.build(name, batch_size=case.batch_size, dtype=case.dtype, **size),
                        planner.cluster(case.cluster, case.nodes, case.devices_per_node))
    planning_s, cpu_s = time.perf_counter() - began, time.process_time() - worked
    record = plan.record
    return {
        "model": name, "cluster": case.cluster, "devices": record.device_count, "batch_size": case.batch_size,
        "dtype": case.dtype, "planning_s": round(planning_s, 2), "cpu_s": round(cpu_s, 2),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "phases_s": {k: round(v, 2) for k, v in plan.phases_s.items()},
        "predicted_step_s": plan.step_time_s, "predicted_mfu": round(plan.mfu, 4), "gap": round(plan.gap, 5),
        "microbatches": record.microbatches,
        "stages": [{"layers": s.layers, "mesh": s.mesh_shape, "summary": s.summary} for s in record.stages],
        "baselines_s": {b.name: b.step_time_s for b in plan.baselines}, "load_before": before, **environment(),
    }


if __name__ == "__main__":
    main()
