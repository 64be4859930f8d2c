"""Which pipeline schedule is chosen, and what the others are predicted to cost, on clusters that need not be there.

    python benchmarks/schedules.py --out benchmarks/results/schedules.jsonl

Few microbatches make the bubble dear, which is where schedules differ; batches are chosen so. Nothing is run: times are
the search's own, memory is the sum of what layers hold.
"""

import argparse
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from recording import append, environment, load

import planner
from planner import models


@dataclass(frozen=True)
class Case:
    """A model on a cluster, and what is pinned."""

    model: str
    cluster: str
    nodes: int
    batch: int
    dtype: str
    microbatches: int | None = None
    stages: int | None = None


CASES = (
    Case("gpt-1.3b", "dgx-a100", 1, 64, "bfloat16"),
    Case("gpt-2.6b", "p3.16xlarge", 2, 1024, "float16"),
    Case("gpt-2.6b", "dgx-a100", 2, 128, "bfloat16"),
    Case("llama-8b", "dgx-h100", 8, 128, "bfloat16"),
    Case("gpt-2.6b", "p3.16xlarge", 2, 128, "float16", microbatches=32),
    Case("gpt-1.3b", "dgx-a100", 1, 64, "bfloat16", microbatches=8, stages=8),
    Case("gpt-1.3b", "dgx-a100", 1, 64, "bfloat16", microbatches=8, stages=4),
    Case("gpt-2.6b", "dgx-a100", 2, 128, "bfloat16", microbatches=16, stages=16),
)


def main() -> None:
    """Plan each case, print a line per schedule, append a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "schedules.jsonl")
    parser.add_argument("--cases", nargs="+", type=int, default=list(range(len(CASES))), choices=range(len(CASES)))
    options = parser.parse_args()
    for n in options.cases:
        row = measure(CASES[n])
        append(options.out, row)
        print(f"{row['model']} on {row['devices']} × {row['cluster']}, batch {row['batch']}: {row['schedule']}, "
              f"{row['stages_of_ranks']}, {row['microbatches']} microbatches, {row['step_s']:.4g} s, "
              f"gap {row['gap']:.1%}, planned in {row['cpu_s']:.0f} s of a core", flush=True)
        costs = row["schedules"]
        assert isinstance(costs, list)
        for cost in costs:
            print("   " + ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in cost.items()),
                  flush=True)


def measure(case: Case) -> dict[str, object]:
    """One row: the plan, and the best of every schedule."""
    before, worked = load(), time.process_time()
    model = models.build(case.model, batch_size=case.batch, dtype=case.dtype)
    pins = {name: getattr(case, name) for name in ("microbatches", "stages") if getattr(case, name) is not None}
    record = planner.plan(model, planner.cluster(case.cluster, nodes=case.nodes), **pins).record
    layout = record.layout
    return {**asdict(case), "devices": record.device_count, "schedule": record.schedule,
            "stages_of_ranks": f"{layout.ranks} × {layout.chunks} stages", "microbatches": record.microbatches,
            "step_s": record.step_time_s, "gap": round(record.gap, 5), "cpu_s": round(time.process_time() - worked, 2),
            "schedules": [asdict(s) for s in record.schedules], "load_before": before, **environment()}


if __name__ == "__main__":
    main()
