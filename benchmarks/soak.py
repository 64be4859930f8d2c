"""A run that is killed (SIGKILL) at random moments of starting, training and saving, and goes on from its checkpoints.

    python benchmarks/soak.py --kills 50             # one plan: losses must be those of a run never killed, bit for bit
    python benchmarks/soak.py --kills 50 --mixed     # every start under another plan and device count

Each start is a process of its own. After every kill it must go on from the newest checkpoint known to be finished, or a
newer one; load no damaged one; and repeat the steps since then with the same losses. A row says how many kills came
when, how many steps were repeated, and how long saving kept the loop and loading took.
"""

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from recording import append, environment

import planner

DEVICES, LAYERS, WIDTH, BATCH = 8, 8, 256, 16
PLANS: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("fsdp on 8", 8, {"recipe": "fsdp", "microbatches": 2}), ("data on 4", 4, {"recipe": "data", "microbatches": 2}),
    ("2 stages on 8", 8, {"recipe": "data", "stages": 2, "microbatches": 2}))
"""(name, devices, pins); the first is that of the run never killed."""

ROUNDING = 1e-3
"""Relative difference of losses under other plans: float32 sums in another order, grown over hundreds of steps."""

EARLY = 0.2
"""Share of kills counted from the start of the process, so that they may hit loading or the first save."""


class Broken(Exception):
    """What must never happen has happened."""


@dataclass
class Seen:
    """What the runs have said.

    Attributes:
      losses: (step, loss, plan) in the order of their coming.
      safe: steps done before the newest checkpoint that is known to be finished.
      early: kills before the run had loaded its checkpoint.
      unfinished: unfinished checkpoints that were found and passed over.
      resume_s, save_s: seconds that loading took, with tracing and without compiling; that a save kept the loop.
    """

    losses: list[tuple[int, float, int]] = field(default_factory=list)
    safe: int = 0
    early: int = 0
    unfinished: int = 0
    resume_s: list[float] = field(default_factory=list)
    save_s: list[float] = field(default_factory=list)


def model() -> planner.Model:
    """Eight tanh layers with Adam's moments, 6 MB of state."""
    import optax

    keys = jax.random.split(jax.random.key(0), LAYERS)
    params = [jax.random.normal(k, (WIDTH, WIDTH)) / WIDTH**0.5 for k in keys]

    def loss(params: Any, batch: Any) -> Any:
        x = batch
        for w in params:
            x = x + jnp.tanh(x @ w)
        return jnp.mean(x**2)

    return planner.Model(loss, params, jax.ShapeDtypeStruct((BATCH, WIDTH), jnp.float32), optax.adam(1e-4), name="soak")


def batch(number: int) -> Any:
    """The batch of a step, which follows from its number."""
    return np.random.default_rng(number).normal(size=(BATCH, WIDTH)).astype(np.float32)


def train(folder: Path, plan_file: Path, until: int, every: int) -> None:
    """The process that is killed: says on standard output what it loaded, every loss, and what is safe."""
    plan = planner.load(plan_file)
    with planner.Checkpoints(folder, plan, every=every) as checkpoints:
        began = time.perf_counter()
        run = checkpoints.resume(model(), jax.devices()[:plan.record.device_count], or_start=True)
        jax.block_until_ready(run.state)
        say(done=run.done, skipped=run.skipped, seconds=time.perf_counter() - began)
        state, last = run.state, run.done
        for n in range(run.done, until):
            state, metrics = run.step(state, batch(n))
            say(step=n, loss=float(metrics["loss"]))
            began = time.perf_counter()
            if checkpoints.save(n + 1, state):  # which has waited for the one before
                say(safe=last, seconds=time.perf_counter() - began)
                last = n + 1


def say(**what: object) -> None:
    """One line of JSON, at once."""
    print(json.dumps(what), flush=True)


def start(folder: Path, plans: Path, plan: int, until: int, every: int) -> subprocess.Popen[str]:
    """A process that trains."""
    command = [sys.executable, __file__, "--train", str(folder), str(plans / f"{plan}.json"), str(until), str(every)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def listen(seen: Seen, lines: Sequence[str], plan: int) -> int | None:
    """Take in what a run said; returns the steps it had done at the end, None if it said nothing yet."""
    done: int | None = None
    for line in lines:
        if not line.endswith("\n"):
            break  # cut off by the kill
        said = json.loads(line)
        if "done" in said:
            done = said["done"]
            if done < seen.safe:
                raise Broken(f"went on from step {done}, though the checkpoint of step {seen.safe} was finished")
            if any("is damaged" in why for why in said["skipped"]):
                raise Broken(f"a kill left a damaged checkpoint: {said['skipped']}")
            seen.unfinished += len(said["skipped"])
            seen.resume_s.append(said["seconds"])
        elif "step" in said:
            done = said["step"] + 1
            seen.losses.append((said["step"], said["loss"], plan))
        else:
            seen.safe = max(seen.safe, said["safe"])
            seen.save_s.append(said["seconds"])
    return done


def kill_one(seen: Seen, process: subprocess.Popen[str], plan: int, chance: random.Random, window_s: float
             ) -> int | None:
    """Kill a run at a random moment; returns the steps it had done."""
    assert process.stdout is not None and process.stderr is not None
    early = chance.random() < EARLY
    lines: list[str] = []
    while not early and "step" not in "".join(lines[-1:]) and process.poll() is None:
        lines.append(process.stdout.readline())
    time.sleep(chance.uniform(0, 4 * window_s if early else window_s))
    if process.poll() is not None:
        raise Broken(f"a run ended by itself: {process.stderr.read()}")
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    return listen(seen, [*lines, *rest.splitlines(keepends=True)], plan)


def finish(process: subprocess.Popen[str]) -> list[str]:
    """What a run says that is left alone."""
    out, err = process.communicate()
    if process.returncode:
        raise Broken(f"a run failed: {err}")
    return out.splitlines(keepends=True)


def soak(folder: Path, kills: int, *, mixed: bool = False, seed: int = 0, every: int = 2, window_s: float = 1.0
         ) -> dict[str, object]:
    """Kill that often, let the last run end, compare with a run never killed; returns a row.

    Raises:
      Broken: a finished checkpoint was not gone on from, one is damaged, or a loss differs.
    """
    chance, seen = random.Random(seed), Seen()
    make_plans(folder)
    began, before = time.perf_counter(), 0
    for n in range(kills):
        plan = n % len(PLANS) if mixed else 0
        process = start(folder / "run", folder, plan, 10**9, every)
        done = kill_one(seen, process, plan, chance, window_s)
        if done is None:
            seen.early += 1
        else:
            before = max(before, done)
    until = before + 5
    listen(seen, finish(start(folder / "run", folder, 0, until, every)), 0)
    alone = Seen()
    listen(alone, finish(start(folder / "alone", folder, 0, until, until)), 0)
    compare(seen, {n: loss for n, loss, _ in alone.losses}, 0.0 if not mixed else ROUNDING)
    if {n for n, _, _ in seen.losses} != set(range(until)):
        raise Broken("steps are missing")
    return {"kills": kills, "killed_before_loading": seen.early, "unfinished_found": seen.unfinished, "mixed": mixed,
            "steps": until, "steps_repeated": len(seen.losses) - until, "every": every, "seed": seed,
            "resume_s": round(statistics.median(seen.resume_s), 3),
            "save_blocks_s": round(statistics.median(seen.save_s), 4) if seen.save_s else None,
            "wall_s": round(time.perf_counter() - began, 1)}


def compare(seen: Seen, wanted: dict[int, float], tolerance: float) -> None:
    """Every loss that was ever said is that of the run never killed."""
    for number, loss, plan in seen.losses:
        if abs(loss - wanted[number]) > tolerance * abs(wanted[number]):
            raise Broken(f"step {number} under {PLANS[plan][0]} has loss {loss!r}, {wanted[number]!r} if never killed")


def make_plans(folder: Path) -> None:
    """A file for each plan."""
    folder.mkdir(parents=True, exist_ok=True)
    for n, (_, devices, pins) in enumerate(PLANS):
        planner.plan(model(), planner.cluster("cpu-8", devices_per_node=devices), **pins).save(folder / f"{n}.json")


def main() -> None:
    """Soak in a temporary folder and append a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--mixed", action="store_true", help="every start under another of three plans")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--window", type=float, default=1.0, metavar="SECONDS", help="in which a run is killed")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "soak.jsonl")
    parser.add_argument("--train", nargs=4, metavar=("FOLDER", "PLAN", "UNTIL", "EVERY"), help="the process that is "
                        "killed")
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES)
    if options.train:
        folder, plan, until, every = options.train
        train(Path(folder), Path(plan), int(until), int(every))
        return
    with tempfile.TemporaryDirectory() as folder:
        row = soak(Path(folder), options.kills, mixed=options.mixed, seed=options.seed, window_s=options.window)
    append(options.out, row | environment())
    print(json.dumps(row))


if __name__ == "__main__":
    main()
