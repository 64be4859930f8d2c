"""Forced plans before the compiler of a target: bytes of collectives and memory, foreseen beside compiled.

    python benchmarks/verified.py --target tpu:v5e:2x4 --cluster tpu-v5e
    python benchmarks/verified.py --target cpu:8 --cluster cpu-8

Nothing runs: a target is a topology that need not be there (`planner/verify/targets.py`). Plans: data parallelism,
FSDP, ZeRO, tensor parallelism, Megatron's mixtures, microbatches, and pipelines of two and four stages. A row holds a
plan's stages: bytes by kind and axes, memory, and every collective that the plan did not foresee, with its share of the
step. The table counts the plans within tolerance (`planner/verify/report.py`).
"""

import argparse
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from math import prod
from pathlib import Path
from typing import Any

import jax
from recording import append, environment

import planner
from planner import models
from planner.core.hardware import Cluster
from planner.errors import PlannerError
from planner.verify import VerifyReport, verify_plan
from planner.verify.report import BYTES_WITHIN, FINDING, MEMORY_UNDER, MEMORY_WITHIN, StageReport

MODELS: Mapping[str, Mapping[str, Any]] = {
    "mlp-tiny": {"batch_size": 4096, "hidden": 2048},
    "llama-tiny": {"batch_size": 32, "sequence": 64, "hidden": 2048, "inner": 4096, "layers": 2, "vocabulary": 4096},
    "gpt-tiny": {"batch_size": 32, "sequence": 64, "hidden": 2048, "layers": 2, "heads": 16, "vocabulary": 4096},
    "moe-tiny": {"batch_size": 32, "sequence": 64, "hidden": 1024, "layers": 2, "group": 64, "vocabulary": 4096},
}
"""Model -> settings, as wide as the layers of a billion parameters: TPUs lay memory out in tiles of 8 × 128, and their
compiler scatters a sum along its last dimension only where a device's part is wider than one tile."""

_MIXED = {"recipe": "megatron", "microbatches": 1}
_ONE_STAGE = {"stages": 1, "microbatches": 1}

PLANS: Mapping[str, Mapping[str, Any]] = {
    "data": {"recipe": "data", **_ONE_STAGE},
    "data m4": {"recipe": "data", "stages": 1, "microbatches": 4},
    "fsdp": {"recipe": "fsdp", **_ONE_STAGE},
    "fsdp m4": {"recipe": "fsdp", "stages": 1, "microbatches": 4},
    "fsdp m4 recomputed": {"recipe": "fsdp", "stages": 1, "microbatches": 4, "recompute": True},
    "zero m4": {"mesh_axes": (("data", 8),), "stages": 1, "microbatches": 4},
    "tensor": {"recipe": "tensor", **_ONE_STAGE},
    "tensor m2": {"recipe": "tensor", "stages": 1, "microbatches": 2},
    "data 4 model 2": _MIXED | {"mesh_axes": (("data", 4), ("model", 2))},
    "data 2 model 4 m2": _MIXED | {"mesh_axes": (("data", 2), ("model", 4)), "microbatches": 2},
    "fsdp 4 model 2": _MIXED | {"mesh_axes": (("fsdp", 4), ("model", 2))},
    "data 2 fsdp 4": _MIXED | {"mesh_axes": (("data", 2), ("fsdp", 4))},
    "free 2 4": {"mesh_axes": (("x", 2), ("y", 4)), **_ONE_STAGE},
    "2 stages data m4": {"recipe": "data", "stages": 2, "microbatches": 4, "schedule": "1f1b"},
    "2 stages fsdp m4": {"recipe": "fsdp", "stages": 2, "microbatches": 4, "schedule": "gpipe"},
    "2 stages data 2 model 2 m4": {"recipe": "megatron", "mesh_axes": (("data", 2), ("model", 2)), "stages": 2,
                                   "microbatches": 4, "schedule": "1f1b"},
    "4 stages data m8": {"recipe": "data", "stages": 4, "microbatches": 8, "schedule": "1f1b"},
    "4 stages tensor m4": {"recipe": "tensor", "stages": 4, "microbatches": 4, "schedule": "gpipe"},
}
"""Name -> pins of plans for 8 devices; `m4` are microbatches."""


def main() -> None:
    """Verify every plan, append rows, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True, help="as of `planner verify`: tpu:v5e:2x4, cpu:8, cuda:h100:8")
    parser.add_argument("--cluster", required=True, help="profile that the plans are made for; nodes as the target has")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "verified.jsonl")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--plans", nargs="+", default=list(PLANS), choices=list(PLANS))
    parser.add_argument("--dtype", help="default: float32 for CPUs, else bfloat16")
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    dtype = options.dtype or ("float32" if options.target.startswith("cpu") else "bfloat16")
    rows: list[dict[str, Any]] = []
    for name in options.models:
        for plan in options.plans:
            row = verified(name, dtype, plan, options.target, cluster_of(options.cluster, options.target))
            if row is not None:
                append(options.out, row | environment())
                rows.append(row)
                print(line(row), flush=True)
    print(table(rows))


def cluster_of(name: str, target: str) -> Cluster:
    """The profile with as many nodes as the target's devices need."""
    devices = prod(int(n) for n in re.findall(r"\d+", target.rsplit(":", 1)[1]))
    return planner.cluster(name, nodes=max(1, devices // planner.cluster(name).devices_per_node))


def verified(name: str, dtype: str, plan: str, target: str, cluster: Cluster) -> dict[str, Any] | None:
    """The row of a plan; None where there is no such plan of the model."""
    model = models.build(name, dtype=dtype, **MODELS[name])
    try:
        record = planner.plan(model, cluster, **PLANS[plan]).record
    except PlannerError as refused:
        print(f"{name} {plan}: {refused.what}", flush=True)
        return None
    start = time.perf_counter()
    report = verify_plan(record, model, target)
    return {"model": name, "dtype": dtype, "plan": plan, "cluster": cluster.name, "microbatches": record.microbatches,
            "verify_s": round(time.perf_counter() - start, 1), **judged(report)}


def judged(report: VerifyReport) -> dict[str, Any]:
    """The figures of a report that the table is made of, and what is needed to find causes."""
    return {"target": report.target, "devices": report.devices, "stages": [_stage(s) for s in report.stages]}


def _stage(s: StageReport) -> dict[str, Any]:
    return {
        "kinds": [list(astuple(k)) for k in s.kinds],
        "sent": [s.foreseen_sent, s.made_sent], "traffic_passed": s.traffic_passed,
        "memory": [s.predicted_bytes, s.compiled_bytes], "memory_passed": s.memory_passed,
        "flops": [s.predicted_flops, s.compiled_flops],
        "unforeseen": [list(astuple(u)) for u in s.unforeseen], "absent": [list(astuple(a)) for a in s.absent]}


def line(row: Mapping[str, Any]) -> str:
    """A row, for people: per stage bytes and memory, how far off, and what was not foreseen."""
    text = f"{row['model']:<11}{row['plan']:<27}"
    for s in row["stages"]:
        (foreseen, made), (predicted, compiled) = s["sent"], s["memory"]
        text += (f" | {made / 1e6:8.2f} MB sent, {_off(foreseen, made)}{' ' if s['traffic_passed'] else '!'}"
                 f" {compiled / 1e6:8.2f} MB held, {_off(predicted, compiled)}{' ' if s['memory_passed'] else '!'}"
                 f" {len(_findings(s))} new")
    return text


def _off(foreseen: float, made: float) -> str:
    return f"{foreseen / made - 1:+7.1%}" if made else f"{0:+7.1%}" if not foreseen else f"{'+∞':>7}"


def _findings(stage: Mapping[str, Any]) -> list[Any]:
    return [u for u in stage["unforeseen"] if u[-1] > FINDING]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Per model and of all: plans, and how many of them have every stage within each tolerance."""
    under = f"under by {MEMORY_UNDER:.0%}"
    titles = ("plans", f"bytes {BYTES_WITHIN:.0%}", f"memory {MEMORY_WITHIN:.0%}", under, "nothing new", "passed")
    lines = [f"{'':<12}" + "".join(f"{title:>13}" for title in titles)]
    for name in (*dict.fromkeys(row["model"] for row in rows), "all"):
        plans = [row["stages"] for row in rows if name in (row["model"], "all")]
        if plans:
            within = [[s["traffic_passed"] for s in p] for p in plans]
            memory = [[abs(s["memory"][0] / s["memory"][1] - 1) <= MEMORY_WITHIN for s in p] for p in plans]
            low = [[s["memory"][0] < (1 - MEMORY_UNDER) * s["memory"][1] for s in p] for p in plans]
            known = [[not _findings(s) for s in p] for p in plans]
            passed = [[s["traffic_passed"] and s["memory_passed"] and not _findings(s) for s in p] for p in plans]
            shares = (sum(map(all, within)), sum(map(all, memory)), sum(map(any, low)), sum(map(all, known)),
                      sum(map(all, passed)))
            lines.append(f"{name:<12}{len(plans):>13}" + "".join(f"{n / len(plans):>13.0%}" for n in shares))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
