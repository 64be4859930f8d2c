"""Predicted memory against the compiler's: every stage of many plans of eight models, compiled and never run.

    python benchmarks/memory.py
    python benchmarks/memory.py --cluster dgx-h100 --target cuda:h100:8 --models gpt-125m gpt-tiny llama-tiny

The second is for a machine that is not there, by its own compiler (`planner/verify/targets.py`).

Models are sized so that a device holds tens of megabytes. Plans: the chosen one, data parallelism, FSDP, ZeRO, tensor
parallelism, Megatron's mixture, FSDP with tensor parallelism, with and without recomputation, pipelines of two and four
stages under both schedules, and 1, 4 and 8 microbatches. What the compiler takes is its arguments, results and
temporaries, less what results share with arguments; a pipeline's driver is followed call by call (`planner/verify`).
A row holds both figures of one stage; the table, per model and dtype, the median and worst error, the share within 10 %
and the worst under-prediction.
"""

import argparse
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from recording import append, environment

import planner
from planner import models
from planner.errors import PlannerError
from planner.verify import verify_plan

MODELS: Mapping[str, Mapping[str, Any]] = {
    "gpt-tiny": {"batch_size": 32, "sequence": 128, "hidden": 256, "layers": 4, "vocabulary": 2048},
    "llama-tiny": {"batch_size": 32, "sequence": 128, "hidden": 256, "inner": 512, "layers": 4, "vocabulary": 2048},
    "moe-tiny": {"batch_size": 32, "sequence": 128, "hidden": 128, "group": 128, "vocabulary": 1024},
    "vit-tiny": {"batch_size": 64, "image": 32, "hidden": 192},
    "wresnet-tiny": {"batch_size": 64},
    "unet-tiny": {"batch_size": 64, "image": 16, "channels": 32},
    "t5-tiny": {"batch_size": 32, "hidden": 256, "inner": 512, "vocabulary": 2048},
    "mlp-tiny": {"batch_size": 1024, "hidden": 512},
}
"""Model -> settings."""

LARGER: Mapping[str, Mapping[str, Any]] = {"gpt-125m": {"batch_size": 64, "layers": 4}}
"""Models that are compiled only if named: gigabytes on a device."""

CONVOLUTIONAL = frozenset({"wresnet-tiny", "unet-tiny"})
"""Models that are compiled in float32 alone."""

MIXED = {"recipe": "megatron", "stages": 1}

PLANS: Mapping[str, Mapping[str, Any]] = {
    "chosen": {},
    "chosen, one stage": {"stages": 1, "microbatches": 1},
    "data": {"recipe": "data", "stages": 1, "microbatches": 1},
    "data × 2": {"recipe": "data", "stages": 1, "microbatches": 2},
    "data × 4": {"recipe": "data", "stages": 1, "microbatches": 4},
    "data, recomputed": {"recipe": "data", "stages": 1, "microbatches": 1, "recompute": True},
    "fsdp": {"recipe": "fsdp", "stages": 1, "microbatches": 1},
    "fsdp × 4": {"recipe": "fsdp", "stages": 1, "microbatches": 4},
    "fsdp × 4, recomputed": {"recipe": "fsdp", "stages": 1, "microbatches": 4, "recompute": True},
    "zero × 4": {"mesh_axes": (("data", 8),), "stages": 1, "microbatches": 4},
    "tensor": {"recipe": "tensor", "stages": 1, "microbatches": 1},
    "data × tensor × 2": MIXED | {"mesh_axes": (("data", 4), ("model", 2)), "microbatches": 2},
    "fsdp × tensor": MIXED | {"mesh_axes": (("fsdp", 4), ("model", 2)), "microbatches": 1},
    "pipeline 2 × data × 4": {"recipe": "data", "stages": 2, "microbatches": 4},
    "pipeline 2 × data × 8, gpipe": {"recipe": "data", "stages": 2, "microbatches": 8, "schedule": "gpipe"},
    "pipeline 4 × fsdp × 8": {"recipe": "fsdp", "stages": 4, "microbatches": 8},
    "pipeline 4 × 4, recomputed": {"stages": 4, "microbatches": 4, "recompute": True},
}
"""Name -> pins; `× 4` are microbatches."""


def main() -> None:
    """Compile every plan, append rows, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "memory.jsonl")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=[*MODELS, *LARGER])
    parser.add_argument("--plans", nargs="+", default=list(PLANS), choices=list(PLANS))
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--cluster", default="cpu-8", help="of 8 devices")
    parser.add_argument("--target", default="local", help="what to compile for; default: virtual CPU devices")
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    rows: list[dict[str, Any]] = []
    for model in options.models:
        for dtype in options.dtypes if model not in CONVOLUTIONAL else ["float32"]:
            for plan in options.plans:
                for row in compared(model, dtype, plan, options.cluster, options.target):
                    append(options.out, row | environment())
                    rows.append(row)
                    print(line(row), flush=True)
    print(table(rows))


def compared(name: str, dtype: str, plan: str, cluster: str, target: str) -> Iterator[dict[str, Any]]:
    """A row per stage of a plan; none where there is no such plan of the model."""
    model = models.build(name, dtype=dtype, **{**MODELS, **LARGER}[name])
    try:
        record = planner.plan(model, planner.cluster(cluster), **PLANS[plan]).record
    except PlannerError as refused:
        print(f"{name} {dtype} {plan}: {refused.what}")
        return
    report = verify_plan(record, model, target)
    for stage, compiled in zip(record.stages, report.stages, strict=True):
        yield {"cluster": cluster, "target": target, "model": name, "dtype": dtype, "plan": plan,
               "stage": stage.index, "stages": len(record.stages), "microbatches": record.microbatches,
               "predicted": stage.memory.total_bytes, "compiled": compiled.compiled_bytes}


def line(row: Mapping[str, Any]) -> str:
    """A row, for people."""
    return (f"{row['model']:<14}{row['dtype']:<10}{row['plan']:<30} stage {row['stage']} of {row['stages']}: "
            f"{row['predicted'] / 1e6:8.2f} of {row['compiled'] / 1e6:8.2f} MB, {error(row):+.1%}")


def error(row: Mapping[str, Any]) -> float:
    """How far the prediction is above the compiler's figure, as a part of that."""
    return row["predicted"] / row["compiled"] - 1


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Errors per model and dtype, and of all."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(f"{row['model']} {row['dtype']}", []).append(error(row))
    groups["all"] = [error(row) for row in rows]
    lines = [f"{'':<24}{'stages':>7}{'median':>9}{'worst':>9}{'within 10 %':>13}{'under by':>10}{'under 3 %':>11}"]
    for name, errors in groups.items():
        if errors:
            sizes = [abs(e) for e in errors]
            lines.append(f"{name:<24}{len(errors):>7}{statistics.median(sizes):>9.1%}{max(sizes):>9.1%}"
                         f"{sum(s <= 0.1 for s in sizes) / len(sizes):>13.0%}{max(0.0, -min(errors)):>10.1%}"
                         f"{sum(e < -0.03 for e in errors) / len(errors):>11.0%}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
