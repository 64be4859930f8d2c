"""Step times predicted and measured, over forced plans of five tiny models on eight virtual CPU devices.

    make calibration                                             # all of it
    python benchmarks/calibration.py measure --models gpt-tiny   # compile all plans of a model, step them in turn
    python benchmarks/calibration.py predict                     # plan every row again; nothing is run
    python benchmarks/calibration.py report                      # join both by what is emitted, print tables

The three phases keep JSON lines in `results/`: measured rows in `calibration.jsonl`, predictions in
`calibration_predicted.jsonl`. A row knows by its fingerprint which programs were emitted, so that a prediction made by
a later cost model meets the measurement of the very same program, or none. `measure` skips what has been measured
already, unless told `--again`.

How to read the report: `error` is |predicted / measured - 1|, `bias` the median of predicted / measured, `tau`
Kendall's rank correlation, `regret` by how much the plan that is predicted fastest is slower than the fastest measured.
The make target, and the measurement behind `profiles/cpu-8.json`, have the C library keep the memory that programs give
back (`MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=67108864`), as allocators of accelerators
do: else every step of a plan with more than 32 MiB of temporary memory gets new pages from the kernel, up to a quarter
of its time.

Measured is the median of the steps that other programs on the machine disturbed least (`quiet.py`), less the part of
the machine that those took: exact where the step keeps all cores busy, and too low where it lets cores idle and others
use them.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from calibration_pairs import MEASURED, PREDICTED, joined, report, rows
from forced import CASES, forced_plans, model_of
from quiet import least_disturbed
from recipes import Running, started
from recording import append, environment, load

import planner
from planner.core.plan import PlanRecord
from planner.models import ZooModel
from planner.verify import verify_plan

PROFILE = "cpu-8"

STATISTICS = ("median", "low", "least")
"""What a row keeps of the seconds over rounds: median, lower quartile, least."""


def main() -> None:
    """Run one phase."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phase", choices=("measure", "predict", "report"))
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--rounds", type=int, default=11, help="steps of each plan that count")
    parser.add_argument("--patience", type=float, default=300, help="seconds a model waits for a quiet machine, in all")
    parser.add_argument("--cache", type=Path, help="folder that keeps compiled programs for the next run")
    parser.add_argument("--again", action="store_true", help="measure what has been measured before, too")
    parser.add_argument("--statistic", default=STATISTICS[0], choices=STATISTICS)
    parser.add_argument("--measured", type=Path, default=MEASURED)
    parser.add_argument("--predicted", type=Path, default=PREDICTED)
    options = parser.parse_args()
    if options.phase == "report":
        print(report(joined(rows(options.measured), rows(options.predicted), options.statistic)))
        return
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    for name in options.models:
        if options.phase == "measure":
            known = {row["fingerprint"] for row in rows(options.measured)}
            with compilation_cache(options.cache):
                found = measure(name, set() if options.again else known, options)
            out = options.measured
        else:
            found, out = predict(name), options.predicted
            kept = [row for row in rows(out) if row["model"] != name]
            out.write_text("".join(json.dumps(row) + "\n" for row in kept))
        for row in found:
            append(out, row)
        print(f"{name}: {len(found)} plans", flush=True)


@contextmanager
def compilation_cache(folder: Path | None) -> Iterator[None]:
    """Keep compiled programs in a folder, by default one of this run: looking into a program need not compile again."""
    with tempfile.TemporaryDirectory() as own:
        jax.config.update("jax_compilation_cache_dir", str(folder or own))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        yield
        jax.config.update("jax_compilation_cache_dir", None)


def measure(name: str, known: set[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Compile all plans of a model whose fingerprint is not known, then step them in turn."""
    model = model_of(name)
    plans = [f for f in forced_plans(name, model, planner.cluster(PROFILE)) if f.fingerprint not in known]
    if not plans:
        return []
    inside: dict[str, dict[str, Any]] = {}
    running: dict[str, Running] = {}
    for f in plans:
        print(f"  {name}: compiling {f.name}", flush=True)
        running[f.name] = started(f.plan, model)
        inside[f.name] = compiled(f.plan.record, model)
    before = load()
    times = least_disturbed(running, options.rounds, options.patience)
    shared = {"rounds": options.rounds, "profile": PROFILE, "load_before": before, "load_after": load(),
              **environment()}
    return [{"model": name, "plan": f.name, "pins": dict(f.pins), "fingerprint": f.fingerprint,
             "step_s": summary(times[f.name].seconds), "disturbed": round(times[f.name].disturbed, 3),
             **inside[f.name], "settings": dict(CASES[name]), **shared}
            for f in plans]


def compiled(record: PlanRecord, model: ZooModel) -> dict[str, Any]:
    """What the compiler made of a plan: bytes of all collectives of a step, peak bytes of the fullest device."""
    stages = verify_plan(record, model, "local").stages
    return {"collective_bytes": sum(s.made_traffic for s in stages),
            "peak_bytes": max(s.compiled_bytes for s in stages)}


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Quartiles and the least of the seconds of a step."""
    low, median, high = statistics.quantiles(seconds, n=4)
    return {k: round(v, 6) for k, v in zip(("least", "low", "median", "high"), (min(seconds), low, median, high),
                                           strict=True)}


def predict(name: str) -> list[dict[str, Any]]:
    """What the present cost model says of each plan."""
    found = []
    for f in forced_plans(name, model_of(name), planner.cluster(PROFILE)):
        record = f.plan.record
        moved = sum(c.bytes * (record.microbatches if c.per == "microbatch" else 1)
                    for stage in record.stages for c in stage.collectives)
        found.append({
            "model": name, "plan": f.name, "fingerprint": f.fingerprint, "step_s": record.step_time_s,
            "stages": len(record.stages), "peak_bytes": f.plan.peak_bytes, "collective_bytes": moved,
            "commit": environment()["commit"]})
    return found


if __name__ == "__main__":
    main()
