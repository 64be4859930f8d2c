"""How long planning takes, phase by phase: the rows of Alpa's evaluation, Aceso's, Llama-8B and Llama-405B, and growth.

    python benchmarks/planning.py                       # the four that have a goal of their own
    python benchmarks/planning.py --cases alpa llama-405b
    python benchmarks/planning.py --growth layers devices

Alpa needed 2,393 s for GPT-39B on 64 V100 with its optimisations, over 40 h without (Zheng et al., OSDI 2022, Table 5),
and 4,092 s for GPT-1.3B on 4, as Aceso measured it, which needed 99 s (Liu et al., EuroSys 2024). Nothing is allocated.

Every case is planned in a process of its own, from the abstract model to the plan: tracing included, the cache of
solved layers empty, that of compiled loops not (numba's, which the first run on a machine fills, in seconds; `--cold`
leaves it aside as well). Phases are of the wall clock, so every row also says how loaded the machine was and how long
it kept a core busy, and the processes that it started to help it. `--growth` plans one model with more and more layers,
or for more and more devices, and fits the exponent of what cores were kept busy for.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import log
from pathlib import Path
from types import MappingProxyType
from typing import Any

from recording import append, environment, load

import planner
from planner import models


@dataclass(frozen=True)
class Case:
    """A model, how large, and where it is planned for."""

    model: str
    batch_size: int
    dtype: str
    cluster: str
    nodes: int
    devices_per_node: int | None = None
    size: dict[str, int] = field(default_factory=dict[str, int])


def alpa(kind: str, batch_size: int, dtype: str, sizes: Sequence[str]) -> Iterator[tuple[str, Case]]:
    """Rows of Alpa's evaluation: models on 1, 4, 8, ... V100 (OSDI 2022, section 8.1)."""
    for size, devices in zip(sizes, (1, 4, 8, 16, 32, 64), strict=True):
        model, nodes = f"{kind}-{size}", max(1, devices // 8)
        yield f"alpa-{model}", Case(model, batch_size, dtype, "p3.16xlarge", nodes, min(devices, 8))


ALPA = MappingProxyType({
    **dict(alpa("gpt", 1024, "float16", ("350m", "1.3b", "2.6b", "6.7b", "15b", "39b"))),
    **dict(alpa("moe", 1024, "float16", ("380m", "1.3b", "2.4b", "10b", "27b", "70b"))),
    **dict(alpa("wresnet", 1536, "float32", ("250m", "1b", "2b", "4b", "6.8b", "13b")))})
"""V100s are fast in float16; Wide-ResNet is in float32, as in Alpa's evaluation. Batches are Alpa's."""

GOALS = MappingProxyType({
    "gpt-1.3b": Case("gpt-1.3b", 1024, "float16", "p3.16xlarge", 1, 4),
    "gpt-2.6b": Case("gpt-2.6b", 1024, "float16", "p3.16xlarge", 2),
    "llama-8b": Case("llama-8b", 512, "bfloat16", "dgx-h100", 8, size={"sequence": 8192}),
    "gpt-39b": Case("gpt-39b", 1024, "float16", "p3.16xlarge", 8),
})

LARGEST = MappingProxyType({
    "llama-405b": Case("llama-405b", 2048, "bfloat16", "dgx-h100", 2048, size={"sequence": 8192})})

GROWTH = MappingProxyType({
    "layers": tuple((layers, Case("gpt-125m", 1024, "float16", "p3.16xlarge", 8, size={"layers": layers}))
                    for layers in (12, 24, 48, 96, 192, 384, 768, 1536)),
    "devices": tuple((8 * nodes, Case("gpt-39b", 2048, "bfloat16", "dgx-h100", nodes))
                     for nodes in (1, 4, 16, 64, 256, 1024, 2048))})
"""What grows, and the cases, one by one."""

CASES = MappingProxyType({**GOALS, **ALPA, **LARGEST,
                          **{f"{kind}-{n}": case for kind, cases in GROWTH.items() for n, case in cases}})
GROUPS = MappingProxyType({"goals": tuple(GOALS), "alpa": tuple(ALPA)})


def main() -> None:
    """Plan each case, print a line of phases, append a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "planning.jsonl")
    parser.add_argument("--cases", "--models", nargs="+", choices=[*GROUPS, *CASES], metavar="CASE",
                        help=f"{', '.join((*GROUPS, *GOALS, *ALPA, *LARGEST))} (default: goals)")
    parser.add_argument("--growth", nargs="+", default=[], choices=list(GROWTH))
    parser.add_argument("--cold", action="store_true", help="compile the loops anew as well")
    parser.add_argument("--here", action="store_true", help="in this process: one case, to be profiled")
    options = parser.parse_args()
    asked = options.cases or ([] if options.growth else ["goals"])
    for name in [case for one in asked for case in GROUPS.get(one, (one,))]:
        report(name, options)
    for kind in options.growth:
        busy = [(n, report(f"{kind}-{n}", options)) for n, _ in GROWTH[kind]]
        for (few, before), (many, after) in zip(busy, busy[1:], strict=False):
            print(f"{few} to {many} {kind}: exponent {log(after / before) / log(many / few):.2f}")


def report(name: str, options: argparse.Namespace) -> float:
    """Measure a case, say and keep what came of it; how many seconds it kept a core busy."""
    row = measure(name, CASES[name]) if options.here else in_a_process(name, cold=options.cold)
    append(options.out, row)
    if "error" in row:
        print(f"{name}: {row['error']}", flush=True)
        return float("nan")
    print(f"{name} on {row['devices']} of {row['cluster']}: {row['planning_s']:.1f} s, a core busy for "
          f"{row['cpu_s']:.1f} s, others for {row['helpers_cpu_s']:.1f} s, {row['peak_gib']:.2f} GiB at most, "
          f"{row['helper_peak_gib']:.2f} GiB in each other process, step {row['predicted_step_s']:.2f} s, "
          f"gap {row['gap']:.2%}, load {row['load_before']:.1f}{', loops compiled anew' if row['cold_loops'] else ''}")
    phases = row["phases_s"]
    assert isinstance(phases, dict)
    print("   " + " · ".join(f"{phase} {seconds:.2f} s" for phase, seconds in phases.items()), flush=True)
    busy_s, others_s = row["cpu_s"], row["helpers_cpu_s"]
    assert isinstance(busy_s, float) and isinstance(others_s, float)
    return busy_s + others_s


def in_a_process(name: str, *, cold: bool) -> dict[str, object]:
    """A row from a process that plans one case and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "row.jsonl"
        loops = ["env", f"NUMBA_CACHE_DIR={Path(folder) / 'loops'}"] if cold else []
        done = subprocess.run([*loops, sys.executable, __file__, "--here", "--cases", name, "--out", str(out)],
                              check=False, capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            return {"case": name, "error": said[-1], **environment()}
        return {**json.loads(out.read_text()), "cold_loops": cold}


def measure(name: str, case: Case) -> dict[str, object]:
    """One row: plan from the abstract model to the plan."""
    before = load()
    began, worked = time.perf_counter(), time.process_time()
    make = planner.plan  # imported when it is asked for
    imported = time.perf_counter()
    model = models.build(case.model, batch_size=case.batch_size, dtype=case.dtype, **dict[str, Any](case.size))
    built = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        plan = make(model, planner.cluster(case.cluster, case.nodes, case.devices_per_node),
                    cache=planner.Cache(Path(folder)))
    planning_s, cpu_s = time.perf_counter() - began, time.process_time() - worked
    helped = resource.getrusage(resource.RUSAGE_CHILDREN)
    record = plan.record
    return {
        "case": name, "model": case.model, "cluster": case.cluster, "devices": record.device_count,
        "batch_size": case.batch_size, "dtype": case.dtype, "planning_s": round(planning_s, 2),
        "cpu_s": round(cpu_s, 2), "helpers_cpu_s": round(helped.ru_utime + helped.ru_stime, 2),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "helper_peak_gib": round(helped.ru_maxrss / 2**20, 2),
        "phases_s": {k: round(v, 2) for k, v in (("imports", imported - began), ("model", built - imported),
                                                 *plan.phases_s.items())},
        "predicted_step_s": plan.step_time_s, "predicted_mfu": round(plan.mfu, 4), "gap": round(plan.gap, 5),
        "microbatches": record.microbatches,
        "stages": [{"layers": s.layers, "mesh": s.mesh_shape, "summary": s.summary} for s in record.stages],
        "baselines_s": {b.name: b.step_time_s for b in plan.baselines}, "load_before": before, "cold_loops": False,
        **environment(),
    }


if __name__ == "__main__":
    main()
