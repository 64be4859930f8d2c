"""Our plan beside experts' plans, all priced by the same code: the ratio of predicted step times, at most 1.00 wanted.

    python benchmarks/experts.py --out benchmarks/results/experts.jsonl

Experts' plans are those that were published (Alpa, OSDI'22, section 8, as its benchmark suites have them; the Llama 3
report, arXiv:2407.21783, Table 4), and Megatron-LM's grid (Narayanan et al., SC'21): every split of the devices into
data, tensor (inside a node) and pipeline parallelism, which a careful user tries out. An expert's plan gets the layers
of its stages, recomputation, optimizer sharding over data axes where the recipe allows it, schedule and, where none was
published, number of microbatches from our search, so it is as good as it can be. Nothing is allocated.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from planning import CASES, GROUPS, Case
from recording import append, environment

import planner
from planner import models
from planner.core.pins import Pins
from planner.core.plan import PlanRecord
from planner.errors import PlannerError
from planner.fitting import plan_to_fit
from planner.request import Remembered, Request
from planner.trace import trace_program


@dataclass(frozen=True)
class Expert:
    """A plan by name, and what of it is pinned."""

    name: str
    pins: Pins


def _megatron(data: int, tensor: int, stages: int, microbatches: int | None = None) -> Pins:
    return Pins(stages=stages, mesh_axes=(("data", data), ("model", tensor)), recipe="megatron",
                microbatches=microbatches)


PUBLISHED = MappingProxyType({
    "alpa-gpt-6.7b": Expert("Alpa's: 2 stages of (2, 4)", _megatron(2, 4, 2)),
    "alpa-gpt-15b": Expert("Alpa's: 4 stages of (2, 4)", _megatron(2, 4, 4)),
    "gpt-39b": Expert("Alpa's: 16 stages of (1, 4), 1,024 microbatches", _megatron(1, 4, 16, 1024)),
    "alpa-moe-10b": Expert("Alpa's: 2 stages of 8", Pins(stages=2, mesh_axes=(("expert", 8),))),
    "llama-405b": Expert("Llama 3 report's: tensor 8, pipeline 16, data 128", _megatron(128, 8, 16)),
})


def grid(case: Case) -> Iterator[Expert]:
    """Megatron's grid: powers of two for each degree."""
    cluster = planner.cluster(case.cluster, case.nodes, case.devices_per_node)
    stages = 1
    while stages <= cluster.device_count:
        tensor = 1
        while tensor <= min(cluster.devices_per_node, cluster.device_count // stages):
            data = cluster.device_count // stages // tensor
            if data * tensor * stages == cluster.device_count:
                yield Expert(f"data {data} × tensor {tensor} × pipeline {stages}", _megatron(data, tensor, stages))
            tensor *= 2
        stages *= 2


def main() -> None:
    """Plan each case, then what experts pinned of it; a row per expert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "experts.jsonl")
    parser.add_argument("--cases", nargs="+", default=[*GROUPS], choices=[*GROUPS, *CASES], metavar="CASE")
    parser.add_argument("--published-only", action="store_true", help="leave Megatron's grid out")
    options = parser.parse_args()
    for name in [case for one in options.cases for case in GROUPS.get(one, (one,))]:
        case = CASES[name]
        request = asked(name, case)
        ours = plan_to_fit(request)
        print(f"{name} on {request.cluster.device_count} of {case.cluster}: ours {ours.step_time_s:.3f} s", flush=True)
        some = [PUBLISHED[name]] if name in PUBLISHED else []
        ratios = [measure(name, case, request, ours, e, options.out)
                  for e in (*some, *(() if options.published_only else grid(case)))]
        best = max((r for r in ratios if r is not None), default=None)
        print(f"   over the best expert: {best:.4f}" if best is not None else "   no expert's plan fits", flush=True)


def asked(name: str, case: Case) -> Request:
    """What `planner.plan` asks of the search, without host memory."""
    model = models.build(case.model, batch_size=case.batch_size, dtype=case.dtype, **dict[str, Any](case.size))
    cluster = planner.cluster(case.cluster, case.nodes, case.devices_per_node)
    return Request(Remembered(partial(trace_program, model)), name, model.kind, model.batch_size, cluster, Pins(), "",
                   progress=lambda _: None)


def measure(name: str, case: Case, request: Request, ours: PlanRecord, expert: Expert, out: Path) -> float | None:
    """A row: ours over an expert's; None where that does not fit."""
    began = time.perf_counter()
    theirs, why = None, None
    try:
        theirs = plan_to_fit(replace(request, pins=expert.pins))
    except PlannerError as error:
        why = str(error).splitlines()[0]
    ratio = None if theirs is None else ours.step_time_s / theirs.step_time_s
    append(out, {
        "case": name, "model": case.model, "cluster": case.cluster, "devices": request.cluster.device_count,
        "batch_size": case.batch_size,
        "dtype": case.dtype, "expert": expert.name, "ours_s": ours.step_time_s,
        "expert_s": theirs.step_time_s if theirs else None, "ratio": ratio, "why_not": why,
        "ours": describe(ours), "theirs": describe(theirs) if theirs else None,
        "seconds": round(time.perf_counter() - began, 2), **environment(),
    })
    print(f"   {expert.name}: {why}" if theirs is None or ratio is None else
          f"   {expert.name}: {theirs.step_time_s:.3f} s, ratio {ratio:.4f}", flush=True)
    return ratio


def describe(record: PlanRecord) -> dict[str, object]:
    """A plan in a few words."""
    return {"microbatches": record.microbatches, "schedule": record.schedule,
            "stages": [[list(s.layers), list(s.mesh_shape), s.summary] for s in record.stages]}


if __name__ == "__main__":
    main()
