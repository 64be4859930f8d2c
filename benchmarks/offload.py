"""Optimizer state and activations in host memory on this machine's first device: memory saved, time paid, numbers kept.

    python benchmarks/offload.py measure            # on the machine itself: an accelerator; about 5 minutes
    python benchmarks/offload.py show               # the recorded rows
    python benchmarks/offload.py compiled           # anywhere: peak memory by the compiler, for 8 virtual CPU devices

Every way of running the same model on one device, each in a process of its own, so that the device's peak memory is its
own: all on the device; optimizer state on the host; activations on the host, copied inside the one program; eight
microbatches through forward and backward programs, as a stage of a GPipe pipeline runs them, without and with
activations on the host. Losses of all must agree with the first. `foreseen` is the time measured of the same plan
without host memory, and what `costs/host.py` adds for the link that was measured first. (Activations of one program are
no longer run on GPUs: the recorded row is why.)
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from recording import append, environment

import planner
from planner import models
from planner.core.graph import Program
from planner.core.host import HostLink
from planner.core.plan import HOST, PlanRecord
from planner.costs.host import activations_s, update_s
from planner.emit.pipeline_code import pipeline_code
from planner.emit.rewritten import rewritten
from planner.emit.update_specs import part_bytes
from planner.fitting import with_memory
from planner.runtime import compile_plan
from planner.runtime.compile import build_step
from planner.runtime.pipeline import PipelineStep
from planner.runtime.placement import initial_state
from planner.search import Found
from planner.trace import program_trees, trace_program
from planner.verify import verify_plan

ONE_PROGRAM = "activations on the host"

WAYS: Mapping[str, tuple[int, str, str]] = {
    "all on the device": (1, "", ""),
    "optimizer state on the host": (1, "optimizer", "all on the device"),
    ONE_PROGRAM: (1, "activations", "all on the device"),
    "8 microbatches, all on the device": (8, "", ""),
    "8 microbatches, activations on the host": (8, "activations", "8 microbatches, all on the device"),
}
"""Name -> microbatches (8: through programs, as in a pipeline), what is on the host, what it is compared with."""

BLOCKS, STEPS = 3, 4
"""Blocks of steps that are timed, and steps of each."""

TOLERANCE = 2e-3
"""Relative, of losses in bfloat16 after a few steps: programs that are cut elsewhere round elsewhere (2^-8 a sum)."""


def main() -> None:
    """Measure, or show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phase", choices=("measure", "show", "one", "link", "compiled"))
    parser.add_argument("--model", default="gpt-760m")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--ways", nargs="+", default=[w for w in WAYS if w != ONE_PROGRAM])
    parser.add_argument("--profile", default="hgx-h200")
    parser.add_argument("--link-mb", type=int, default=1024, help="megabytes of each transfer that is timed")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "offload.jsonl")
    options = parser.parse_args()
    if options.phase == "one":
        append(options.out, measured(options, options.ways[0]))
    elif options.phase == "compiled":
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", 8)
        compiled()
    elif options.phase == "link":
        append(options.out, link(options.link_mb * 10**6))
    elif options.phase == "measure":
        for phase, ways in (("link", []), *(("one", [way]) for way in options.ways)):
            began = time.perf_counter()
            done = subprocess.run([sys.executable, __file__, phase, *arguments(options, ways)], capture_output=True,
                                  text=True, check=False)
            said = "" if done.returncode == 0 else "\n" + "\n".join(done.stderr.strip().splitlines()[-4:])
            print(f"{phase} {' '.join(ways)}: {time.perf_counter() - began:.0f} s{said}", flush=True)
    if options.phase in ("measure", "show"):
        show(options.out)


def arguments(options: argparse.Namespace, ways: list[str]) -> list[str]:
    """The same options for a process of one way."""
    return ["--model", options.model, "--layers", str(options.layers), "--batch", str(options.batch), "--dtype",
            options.dtype, "--profile", options.profile, "--link-mb", str(options.link_mb), "--out", str(options.out),
            *(["--ways", *ways] if ways else [])]


def link(size: int) -> dict[str, Any]:
    """Bytes a second between the device and its host's memory: each way alone, and both at once."""
    device = jax.devices()[0]
    here, there = (jax.sharding.SingleDeviceSharding(device, memory_kind=kind) for kind in ("device", HOST))
    on_device = jax.device_put(jnp.ones(size // 4, jnp.float32), here)
    on_host = jax.device_put(on_device, there)

    def rate(moves: Callable[[], list[Any]]) -> float:
        jax.block_until_ready(moves())
        times = []
        for _ in range(5):
            began = time.perf_counter()
            moved = moves()
            jax.block_until_ready(moved)
            times.append(time.perf_counter() - began)
            del moved
        return size / statistics.median(times)

    return {"kind": "link", "bytes": size, "to_host": rate(lambda: [jax.device_put(on_device, there)]),
            "to_device": rate(lambda: [jax.device_put(on_host, here)]),
            "each_of_both": rate(lambda: [jax.device_put(on_device, there), jax.device_put(on_host, here)]),
            "device": device.device_kind, **environment()}


def measured(options: argparse.Namespace, way: str) -> dict[str, Any]:
    """Compile one way, run it, and look into it."""
    microbatches, host, _ = WAYS[way]
    device = jax.devices()[0]
    model = models.build(options.model, dtype=options.dtype, batch_size=options.batch, layers=options.layers)
    record = planner.plan(model, planner.cluster(options.profile, 1, 1), microbatches=microbatches, recompute=False,
                          stages=1, progress=lambda _: None).record
    record, program = moved(record, host), trace_program(model, microbatches)
    with jax.default_device(jax.devices("cpu")[0]):  # nothing but the run is on the device
        params, state, batch = models.init(model), models.init_state(model), models.random_batch(model)
    given = replace(model, params=params, state=state)
    began = time.perf_counter()
    if microbatches == 1:
        step, now = compile_plan(record, given, [device])
    else:
        step, now = as_a_pipeline(record, given, program, device)
    batch = jax.device_put(batch, device)
    losses: list[float] = []
    for _ in range(3):
        now, out = step(now, batch)
        losses.append(float(out["loss"]))
    compile_s, seconds = time.perf_counter() - began, list[float]()
    for _ in range(BLOCKS):
        began = time.perf_counter()
        for _ in range(STEPS):
            now, out = step(now, batch)
        losses.append(float(out["loss"]))
        jax.block_until_ready(now)
        seconds.append((time.perf_counter() - began) / STEPS)
    memory = with_memory(Found(record, program)).stages[0].memory if microbatches == 1 else None
    stats = device.memory_stats() or {}
    return {"kind": "way", "way": way, "model": options.model, "layers": options.layers, "batch": options.batch,
            "dtype": options.dtype, "parameters": model.parameter_count, "losses": losses,
            "step_s": statistics.median(seconds), "compile_s": round(compile_s, 1),
            "moved_bytes": moved_bytes(record, program, step, host),
            "part_bytes": max(part_bytes(record, program.update, 0).values(), default=0),
            "opt_on_host": on_host(now.opt_leaves),
            "peak_bytes": stats.get("peak_bytes_in_use"), "predicted_bytes": memory and memory.total_bytes,
            "device": device.device_kind, **environment()}


def moved(record: PlanRecord, host: str) -> PlanRecord:
    """The plan with optimizer state or activations on the host."""
    if host == "optimizer":
        return replace(record, params=tuple(replace(p, opt_memory=HOST) for p in record.params))
    if host == "activations":
        return replace(record, stages=tuple(replace(s, offload=tuple(range(*s.layers))) for s in record.stages))
    return record


def as_a_pipeline(record: PlanRecord, model: planner.Model, program: Program, device: Any) -> tuple[Any, Any]:
    """A plan of one stage run as pipelines are, all microbatches forward before the first goes back."""
    record = replace(record, schedule="gpipe")
    plain = replace(record, stages=tuple(replace(s, offload=()) for s in record.stages))
    placed, (given, _) = build_step(plain, model, [device]).placed, rewritten(plain, program)
    step = PipelineStep(record, model, program, pipeline_code(record, given), placed,
                        program_trees(model, record.microbatches).aux)
    return step, initial_state(record, model, program, placed)


def moved_bytes(record: PlanRecord, program: Program, step: Any, host: str) -> int:
    """Bytes that go one way in a step."""
    if host == "optimizer":
        update = program.update
        assert update is not None
        return sum(int(np.prod(update.values[i.value].shape)) * 4 for i in update.inputs if i.role == "opt_state")
    if host != "activations":
        return 0
    if isinstance(step, PipelineStep):
        values = step.parts.code.given.graph.values
        sizes = [int(np.prod(values[v].shape)) * jnp.dtype(values[v].dtype).itemsize for v in step.parts.away[0]]
        return sum(sizes) * (record.microbatches - 1)
    graph = rewritten(record, program)[0].graph
    sent = [graph.values[op.results[0]] for op in graph.ops if getattr(op.payload, "memory", None) == HOST]
    return sum(int(np.prod(v.shape)) * jnp.dtype(v.dtype).itemsize for v in sent)


def on_host(leaves: Any) -> int:
    """Bytes of these arrays that lie in the host's memory."""
    return sum(x.nbytes for x in leaves if x.sharding.memory_kind == HOST)


def show(path: Path) -> None:
    """The newest row of each way, in a table; complains where losses differ."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    links = [r for r in rows if r["kind"] == "link"]
    newest = {r["way"]: r for r in rows if r["kind"] == "way"}
    way_there = None
    if links:
        last = links[-1]
        way_there = HostLink(last["to_device"], last["to_host"], last["each_of_both"], 0.0, 0)
        print(f"{last['device']}: to the host {last['to_host'] / 1e9:.1f} GB/s, to the device "
              f"{last['to_device'] / 1e9:.1f} GB/s, each of both at once {last['each_of_both'] / 1e9:.1f} GB/s")
    print(f"{'way':<42}{'step':>10}{'foreseen':>10}{'peak':>10}{'predicted':>11}{'on the host':>13}{'losses':>9}")
    for way, (_, _, beside) in WAYS.items():
        if way not in newest:
            continue
        row, than = newest[way], newest.get(beside)
        foreseen = f"{1e3 * foreseen_s(row, than, way_there):.1f} ms" if than and way_there else ""
        worst = max((abs(a / b - 1) for a, b in zip(row["losses"], than["losses"], strict=True)), default=0.0) \
            if than else 0.0
        print(f"{way:<42}{1e3 * row['step_s']:>7.1f} ms{foreseen:>10}{gigabytes(row['peak_bytes']):>10}"
              f"{gigabytes(row['predicted_bytes']):>11}{gigabytes(row['moved_bytes']):>13}"
              f"{worst:>9.1e}{'  DIFFERENT' if worst > TOLERANCE else ''}")


COMPILED: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("optimizer", {"stages": 1, "microbatches": 1}), ("optimizer", {"stages": 1, "microbatches": 2}),
    ("optimizer", {"stages": 2, "microbatches": 2, "schedule": "1f1b"}),
    ("activations", {"stages": 2, "microbatches": 8, "schedule": "gpipe"}),
    ("activations", {"stages": 4, "microbatches": 8, "schedule": "1f1b"}))
"""What goes to the host, of which plans of gpt-tiny."""


def compiled() -> None:
    """Peak bytes of the fullest device without and with host memory, foreseen and compiled."""
    print(f"{'on the host':<14}{'pins':<58}{'foreseen':>20}{'compiled':>20}{'moved':>8}")
    for host, pins in COMPILED:
        model = models.build("gpt-tiny", dtype="float32", batch_size=64, layers=4)
        record = planner.plan(model, planner.cluster("cpu-8"), recipe="data", progress=lambda _: None, **pins).record
        program = trace_program(model, record.microbatches)
        rows = [with_memory(Found(r, program)) for r in (record, moved(record, host))]
        stages = [verify_plan(r, model, "local").stages for r in rows]
        foreseen, made = ([max(getattr(s, name) for s in found) / 1e6 for found in stages]
                          for name in ("predicted_bytes", "compiled_bytes"))
        print(f"{host:<14}{pins!s:<58}{foreseen[0]:>8.2f} → {foreseen[1]:>6.2f} MB{made[0]:>8.2f} → {made[1]:>6.2f} MB"
              f"{max(s.memory.host_bytes for s in rows[1].stages) / 1e6:>8.2f}", flush=True)


def foreseen_s(row: Mapping[str, Any], than: Mapping[str, Any], way_there: HostLink) -> float:
    """The other way's time, and what moving adds to it. The backward takes two thirds of a step."""
    microbatches, host, _ = WAYS[row["way"]]
    if host == "optimizer":
        return than["step_s"] + update_s(row["moved_bytes"], row.get("part_bytes", 0), way_there)
    sent, each = max(1, microbatches - 1), than["step_s"] / microbatches
    return than["step_s"] + sent * activations_s(row["moved_bytes"] / sent, each / 3, 2 * each / 3, way_there)


def gigabytes(size: int | None) -> str:
    """Bytes, or that nothing is known."""
    return "n/a" if size is None else f"{size / 1e9:.2f} GB"


if __name__ == "__main__":
    main()
