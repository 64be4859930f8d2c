"""Does searching rewrites and shardings together pay? Joint against rewriting first and sharding then, and against
sharding alone.

    python benchmarks/rewrites.py predict --out benchmarks/results/rewrites.jsonl
    python benchmarks/rewrites.py measure --out benchmarks/results/rewrites_measured.jsonl

`predict`: for a model of every family of the zoo, on 8 and on 64 H100s, the predicted step of the three plans, what was
rewritten, and how long looking took. `measure`: small ones on eight virtual CPU devices, the three plans compiled
first, each as one program over all of them, then stepped in turn, round after round; the ratios are taken round by
round, beside two between which their median is with 95 % probability. Plans that are the same are run once.
`--hardware FILE` plans with a profile that `planner measure --devices 8 -o FILE` wrote on the machine as it is then.
`--tight 0.6` gives devices that part of the memory which the plan without rewrites takes where there is plenty: as on
clusters, memory binds then. Unity (OSDI 2022) compares itself with the same two.
"""

import argparse
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from recipes import described, in_turn, started
from recording import append, environment, load

import planner
from planner import models
from planner.core.hardware import Cluster
from planner.errors import PlannerError
from planner.rewrites import RULES

WAYS: Mapping[str, Mapping[str, Any]] = {"joint": {"rewrite": "joint"}, "first": {"rewrite": "first"}, "none": {}}
"""Name -> pins."""

MODELS: Mapping[str, int] = {"gpt-1.3b": 256, "gpt2-xl": 256, "llama-1b": 64, "phi3-mini": 64, "moe-1.3b": 256,
                             "mixtral-8x7b": 64, "t5-3b": 256, "vit-h14": 512, "unet-470m": 256, "wresnet-1b": 512,
                             "mlp-1b": 1024, "lstm-66m": 256}
"""Model -> batch, for predictions."""

CASES: Mapping[str, Mapping[str, Any]] = {
    "gpt-tiny": {"batch_size": 2, "sequence": 512, "hidden": 256, "layers": 2},
    "gpt2-tiny": {"batch_size": 2, "sequence": 512, "hidden": 256, "layers": 2},
    "llama-tiny": {"batch_size": 2, "sequence": 512, "hidden": 256, "inner": 512, "layers": 2},
    "phi3-tiny": {"batch_size": 2, "sequence": 512, "hidden": 256, "inner": 512, "layers": 2},
    "moe-tiny": {"batch_size": 2, "sequence": 512, "hidden": 256, "layers": 2, "group": 128},
    "mixtral-tiny": {"batch_size": 2, "sequence": 512, "hidden": 256, "layers": 2, "group": 128},
    "t5-tiny": {"batch_size": 2, "sequence": 256, "target": 256, "hidden": 256, "inner": 512, "layers": 1},
    "vit-tiny": {"batch_size": 8, "image": 64, "hidden": 256, "layers": 2},
    "unet-tiny": {"batch_size": 4}, "wresnet-tiny": {"batch_size": 4},
    "mlp-tiny": {"batch_size": 64, "hidden": 512}, "lstm-tiny": {"batch_size": 4, "hidden": 256},
}
"""Model -> settings with which a step takes 20 to 500 ms on two cores, and the batch alone does not keep eight devices
busy, as on large clusters: then the model itself is split."""

LONG: Mapping[str, Mapping[str, Any]] = {
    "gpt-tiny": {"batch_size": 16, "sequence": 256, "hidden": 128, "vocabulary": 512},
    "gpt2-tiny": {"batch_size": 16, "sequence": 256, "hidden": 128, "vocabulary": 512},
    "llama-tiny": {"batch_size": 16, "sequence": 256, "hidden": 128, "inner": 256, "vocabulary": 512},
    "vit-tiny": {"batch_size": 64}, "t5-tiny": {"batch_size": 32},
}
"""Models whose attention scores are most of what waits for the backward."""


def main() -> None:
    """Plan or measure every model, print a table, append rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("predict", "measure"))
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=25, help="steps of each plan that are measured")
    parser.add_argument("--tight", type=float, default=None, metavar="SHARE", help="measure with less memory")
    parser.add_argument("--hardware", default="cpu-8", help="the profile to measure with (default: cpu-8)")
    parser.add_argument("--budget", type=float, default=None, metavar="SECONDS",
                        help="for planning with rewrites, in all (default: none, and 30 for rewrites)")
    parser.add_argument("--models", nargs="+", default=None)
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    predicts = options.what == "predict"
    for name in options.models or (MODELS if predicts else LONG if options.tight else CASES):
        rows = [predicted(name, nodes, options.budget) for nodes in (1, 8)] if predicts else [measured(name, options)]
        for row in rows:
            if options.out is not None:
                append(options.out, row)
            print(line(row), flush=True)


def predicted(name: str, nodes: int, budget_s: float | None) -> dict[str, Any]:
    """The three plans on H100s."""
    model, cluster = models.build(name, batch_size=MODELS[name]), planner.cluster("dgx-h100", nodes=nodes)
    plans, searched = planned(model, cluster, budget_s)
    return {"model": name, "batch_size": MODELS[name], "profile": cluster.name, "devices": cluster.device_count,
            **told(plans, searched), **environment()}


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The three plans on eight virtual devices, stepped in turn."""
    rounds, tight = options.rounds, options.tight
    settings = CASES[name] if tight is None else LONG[name]
    model, cluster = models.build(name, dtype="float32", **settings), planner.cluster(options.hardware)
    if tight is not None:
        peak = planner.plan(model, cluster, cache=False, stages=1).record.peak_bytes
        cluster = replace(cluster, device=replace(cluster.device, memory_margin=0.0, memory_bytes=int(tight * peak)))
    plans, searched = planned(model, cluster, options.budget, stages=1)
    same = {way: next(w for w in plans if program(plans[w]) == program(plans[way])) for way in plans}
    running = {way: started(plans[way], model) for way in dict.fromkeys(same.values())}
    before, times = load(), in_turn(running, rounds)
    times = {way: times[same[way]] for way in plans}
    row = {"model": name, "settings": dict(settings), "dtype": "float32", "profile": cluster.name, "devices": 8,
           "tight": tight, "memory_bytes": cluster.device.memory_bytes, "rounds": rounds,
           "measured_s": {w: round(statistics.median(t), 5) for w, t in times.items()},
           "plans": {w: described(p) for w, p in plans.items()}, "same_as": same}
    for other in ("first", "none"):
        if other in times and "joint" in times:
            ratios = sorted(a / b for a, b in zip(times["joint"], times[other], strict=True))
            row[f"joint_over_{other}"] = round(statistics.median(ratios), 4)
            row[f"joint_over_{other}_95"] = [round(r, 4) for r in median_between(ratios)]
    return {**row, **told(plans, searched), "load_before": before, "load_after": load(), **environment()}


def median_between(ordered: Sequence[float]) -> tuple[float, float]:
    """Between which two values the median is, with 95 % probability or more: as many are below it as heads fall."""
    n = len(ordered)
    below, left_out = 0, 0.0
    while below < n // 2 and left_out + math.comb(n, below) / 2**n <= 0.025:
        left_out += math.comb(n, below) / 2**n
        below += 1
    first = max(below - 1, 0)
    return ordered[first], ordered[n - 1 - first]


def program(plan: planner.Plan) -> str:
    """What of a plan is run, as text: all but what is said beside it."""
    record = plan.record
    return f"{record.fingerprint} {record.schedule} {record.microbatches} {record.stages} {record.params}"


def planned(model: models.ZooModel, cluster: Cluster, budget_s: float | None, **pins: Any
            ) -> tuple[dict[str, planner.Plan], dict[str, float]]:
    """A plan for each way, and how many seconds it took; what does not fit is left out."""
    plans: dict[str, planner.Plan] = {}
    seconds: dict[str, float] = {}
    for way, asked in WAYS.items():
        budget: dict[str, Any] = {"budget_s": budget_s} if asked and budget_s else {}
        began = time.perf_counter()
        try:
            plans[way] = planner.plan(model, cluster, cache=False, **pins, **asked, **budget)
        except PlannerError as error:
            print(f"{model.name}, {way}: {error}")
        seconds[way] = round(time.perf_counter() - began, 2)
    return plans, seconds


def told(plans: Mapping[str, planner.Plan], searched: Mapping[str, float]) -> dict[str, Any]:
    """What rows say of plans."""
    return {"predicted_s": {w: p.step_time_s for w, p in plans.items()}, "planning_s": dict(searched),
            "rewrites": {w: [f"{r.rewriting} ×{r.places}" for r in p.record.rewrites] for w, p in plans.items()},
            "looking_s": {w: round(dict(p.record.phases_s).get("rewrites", 0.0), 2) for w, p in plans.items()},
            "priced": {w: dict(p.record.pruned).get("rewritten graphs priced", 0) for w, p in plans.items()},
            "rules": len(tuple(RULES))}


def line(row: Mapping[str, Any]) -> str:
    """A row of the printed table."""
    times = row.get("measured_s", row["predicted_s"])
    cells = [f"{row['model']:<14}{row['devices']:>4} devices"]
    cells += [f"{way} {times[way] * 1e3:9.4g} ms" for way in WAYS if way in times]
    predicted = row["predicted_s"]
    cells += [f"joint / {o}: predicted {predicted['joint'] / predicted[o]:.4f}" +
              (f" measured {row[f'joint_over_{o}']:.4f} {row[f'joint_over_{o}_95']}" if "measured_s" in row
               else "") for o in ("first", "none") if o in predicted and "joint" in predicted]
    return ", ".join([*cells, f"{row['looking_s'].get('joint', 0)} s looking", "; ".join(row["rewrites"]["joint"])])


if __name__ == "__main__":
    main()
