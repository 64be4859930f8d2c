"""Golden plans: what was chosen for a few models, so that a change of costs shows in review.

`python -m tests.search.golden` writes them anew.
"""

import json
from pathlib import Path
from typing import Any

import planner
from planner import models

FILE = Path(__file__).parent / "golden.json"

WIDE = {"hidden": 2048, "heads": 16, "sequence": 1024, "vocabulary": 32_000}

CASES: tuple[tuple[str, str, dict[str, Any], str, dict[str, Any]], ...] = (
    ("a wide GPT on a DGX A100", "gpt-tiny", WIDE, "dgx-a100", {"microbatches": 1}),
    ("a wide GPT on 8 V100", "gpt-tiny", WIDE, "p3.16xlarge", {"microbatches": 4}),
    ("llama-tiny on the CPU mesh", "llama-tiny", {}, "cpu-8", {"microbatches": 1}),
    ("gpt-tiny, 2 stages on 8 V100", "gpt-tiny", {}, "p3.16xlarge", {"stages": 2, "microbatches": 4}),
)


def summaries() -> dict[str, Any]:
    """Per case, what the plan says."""
    found: dict[str, Any] = {}
    for title, name, size, cluster, pins in CASES:
        plan = planner.plan(models.build(name, batch_size=16, **size), planner.cluster(cluster), **pins)
        found[title] = {
            "step_time_s": float(f"{plan.step_time_s:.4g}"), "peak_bytes": plan.peak_bytes,
            "stages": [{"layers": list(s.layers), "mesh": list(s.mesh_shape), "shardings": s.summary}
                       for s in plan.stages],
            "baselines": {b.name: b.step_time_s and float(f"{b.step_time_s:.4g}") for b in plan.baselines}}
    return found


if __name__ == "__main__":
    FILE.write_text(json.dumps(summaries(), indent=1, ensure_ascii=False) + "\n")
