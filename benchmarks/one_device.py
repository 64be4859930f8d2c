"""One accelerator: step time and memory of plans for it, predicted beside measured, in a table.

    python benchmarks/one_device.py measure --profile hgx-h200        # on the machine itself
    python benchmarks/one_device.py predict --profile measured.json   # anywhere: the recorded plans, priced again

A plan for one device has no communication and no choice of shardings: what is compared is the price of its operators,
recomputation, and the update. Each plan runs in a process of its own, so that the device's peak memory is the plan's.
Steps are enqueued as in training and the last is waited for: `measured` is seconds of a block of steps over their
number, the median of the blocks. `compiled` is the compiler's own figure of memory, `peak` what the device's allocator
says at the end.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from recording import append, environment

import planner
from planner import models
from planner.core.hardware import Cluster
from planner.verify import verify_plan

CASES: Mapping[str, Mapping[str, Any]] = {
    "gpt-125m": {"batch_size": 16},
    "gpt-760m": {"batch_size": 8, "layers": 8},
    "llama-1b": {"batch_size": 4, "sequence": 2048, "layers": 6},
    "vit-b16": {"batch_size": 64},
    "moe-380m": {"batch_size": 8},
    "wresnet-250m": {"batch_size": 32},
    "gpt-tiny": {"batch_size": 8},
}
"""Model -> settings: a few layers of the wide ones, so that they compile in a minute."""

PLANS: Mapping[str, Mapping[str, Any]] = {
    "plain": {"microbatches": 1},
    "m4": {"microbatches": 4},
    "recomputed": {"microbatches": 1, "recompute": True},
}
"""Name -> pins."""

BLOCKS, STEPS = 5, 6
"""Blocks of steps that are timed, and steps of each."""


def main() -> None:
    """Measure or predict, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phase", choices=("measure", "predict", "one"))
    parser.add_argument("--profile", required=True, help="name of a profile, or the path of a file")
    parser.add_argument("--models", nargs="+", default=list(CASES))
    parser.add_argument("--plans", nargs="+", default=list(PLANS))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "one_device.jsonl")
    parser.add_argument("--budget-s", type=float, default=600.0, help="begin no further plan after that")
    options = parser.parse_args()
    cluster = planner.cluster(options.profile, 1, 1)
    if options.phase == "one":
        append(options.out, measured(options.models[0], options.plans[0], options.dtype, cluster))
        return
    if options.phase == "measure":
        measure_all(options)
    else:
        jax.config.update("jax_platforms", "cpu")
    print(f"{'model':<14}{'plan':<12}{'predicted':>12}{'measured':>12}{'ratio':>8}{'predicted':>12}{'compiled':>10}"
          f"{'peak':>8}")
    for row in (json.loads(line) for line in options.out.read_text().splitlines()):
        if row["model"] in options.models and row["plan"] in options.plans:
            print(line_of(row, cluster))


def measure_all(options: argparse.Namespace) -> None:
    """Every plan of every model, each in a process of its own; one that fails is told and left out."""
    end = time.perf_counter() + options.budget_s
    for plan in options.plans:
        for name in options.models:
            if time.perf_counter() > end:
                print(f"{name} {plan}: no time left", flush=True)
                continue
            began = time.perf_counter()
            done = subprocess.run([sys.executable, __file__, "one", "--profile", options.profile, "--models", name,
                                   "--plans", plan, "--dtype", options.dtype, "--out", str(options.out)],
                                  capture_output=True, text=True, check=False)
            said = "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]
            print(f"{name} {plan}: {time.perf_counter() - began:.0f} s {said}", flush=True)


def planned(name: str, plan: str, dtype: str, settings: Mapping[str, Any], cluster: Cluster
            ) -> tuple[models.ZooModel, planner.Plan]:
    """The model of a case, and its plan."""
    model = models.build(name, dtype=dtype, **settings)
    return model, planner.plan(model, cluster, **PLANS[plan])


def measured(name: str, plan: str, dtype: str, cluster: Cluster) -> dict[str, Any]:
    """Compile one plan, run it, and look into it."""
    device = jax.devices()[0]
    model, chosen = planned(name, plan, dtype, CASES[name], cluster)
    began = time.perf_counter()
    step, state = chosen.compile(model, [device], params=models.init(model), state=models.init_state(model))
    batch = jax.device_put(models.random_batch(model), device)
    for _ in range(2):
        state, out = step(state, batch)
    first_loss = float(out["loss"])
    compile_s = time.perf_counter() - began
    seconds: list[float] = []
    for _ in range(BLOCKS):
        began = time.perf_counter()
        for _ in range(STEPS):
            state, out = step(state, batch)
        last_loss = float(out["loss"])
        seconds.append((time.perf_counter() - began) / STEPS)
    stats = device.memory_stats() or {}
    del state, out
    return {"model": name, "plan": plan, "dtype": dtype, "settings": dict(CASES[name]), "profile": cluster.name,
            "step_s": statistics.median(seconds), "least_s": min(seconds), "most_s": max(seconds),
            "losses": [first_loss, last_loss], "compile_s": round(compile_s, 1),
            "peak_bytes": stats.get("peak_bytes_in_use"),
            "compiled_bytes": max(s.compiled_bytes for s in verify_plan(chosen.record, model, "local").stages),
            "device": device.device_kind, **environment()}


def line_of(row: Mapping[str, Any], cluster: Cluster) -> str:
    """A row of the table, predicted with this cluster."""
    _, plan = planned(row["model"], row["plan"], row["dtype"], row["settings"], cluster)
    peak = f"{row['peak_bytes'] / 1e9:.2f}" if row["peak_bytes"] else "n/a"
    return (f"{row['model']:<14}{row['plan']:<12}{1e3 * plan.step_time_s:>9.2f} ms{1e3 * row['step_s']:>9.2f} ms"
            f"{plan.step_time_s / row['step_s']:>8.3f}{plan.peak_bytes / 1e9:>9.2f} GB"
            f"{row['compiled_bytes'] / 1e9:>10.2f}{peak:>8}")


if __name__ == "__main__":
    main()
