"""One process of a test: `python worker.py HOST:PORT COUNT PROCESS JSON`, see `harness.Job` for what the JSON says."""

import json
import sys
import threading
import time

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import planner
from planner.check.inputs import random_batch
from planner.check.reference import Reference
from planner.checkpoint import Checkpoints
from planner.planned import Plan
from planner.processes.in_turn import in_turn
from planner.processes.standstill import JOINED
from planner.processes.watch import Limits
from planner.runtime import compile_plan
from planner.trace import split_leaves
from tests.processes.cases import CASES
from tests.runtime.plans import record_of


def main() -> None:
    where, count, process, text = sys.argv[1:]
    job = json.loads(text)
    jax.config.update("jax_disable_most_optimizations", True)
    if process in job.get("flags", {}):
        jax.config.update(*job["flags"][process])
    limits = Limits(**job.get("limits", {}))
    with planner.distributed(where, int(count), int(process), devices=job["devices"], limits=limits) as group:
        for name in job["cases"][process] if isinstance(job["cases"], dict) else job["cases"]:
            (train if "folder" not in job else train_with_checkpoints)(name, group, job)
        if "sums" in job:
            sum_up(group, job["sums"])
        if job.get("stays") == group.process:
            jax.distributed.shutdown = threading.Event().wait


def train(name, group, job):
    """Losses of every step, printed as JSON, and this process's parts of the last state, held against a run on one of
    its devices."""
    case = CASES[name]
    model = case.build()
    record = record_of(model, case.design)
    step, state = compile_plan(record, model, group.devices[:job.get("used", len(group.devices))])
    losses = []
    for n in range(job["steps"]):
        batch = random_batch(model, n)
        state, metrics = step(state, job_share(batch, group) if job.get("share") else batch)
        losses.append(float(metrics["loss"]))
        if n == 0:
            tell("begun")
        if job.get("never ends") == group.process:
            with JOINED.get().waiting("what never ends"):
                threading.Event().wait()
    right = Reference(model, case.design.microbatches, jax.local_devices()[0]).run(
        model.params, model.state, [random_batch(model, n) for n in range(job["steps"])])
    np.testing.assert_allclose(losses, [x.loss for x in right], rtol=case.tolerance)
    for leaves, places, tree in ((state.param_leaves, state.layout.params, right[-1].params),
                                 (state.opt_leaves, state.layout.opt_state, right[-1].opt_state),
                                 (state.state_leaves, state.layout.state, right[-1].state)):
        for leaf, place, wanted in zip(leaves, places, split_leaves(tree, places), strict=True):
            assert_shards(leaf, numbers(wanted), case.tolerance, place.path)
    tell(json.dumps({"case": name, "losses": losses}))


def train_with_checkpoints(name, group, job):
    """Losses of the steps that were left to do, with a checkpoint after each."""
    case = CASES[name]
    model = case.build()
    with Checkpoints(job["folder"], Plan(record_of(model, case.design))) as checkpoints:
        run = checkpoints.resume(model, group.devices, or_start=True)
        state = run.state
        for n in range(run.done, job["steps"]):
            state, metrics = run.step(state, random_batch(model, n))
            tell(json.dumps({"step": n, "loss": float(metrics["loss"])}))
            checkpoints.save(n + 1, state)


def sum_up(group, count):
    """Sums over all devices one after another, none of which is looked at; the second process is late now and then."""
    mesh = Mesh(np.array(group.devices), ("device",))
    whole = NamedSharding(mesh, PartitionSpec())
    add = in_turn(jax.jit(lambda x: x + x.sum() / x.size, out_shardings=NamedSharding(mesh, PartitionSpec("device"))),
                  mesh)
    x = jax.make_array_from_callback((len(group.devices),), NamedSharding(mesh, PartitionSpec("device")),
                                     lambda index: np.zeros(1, np.float32) + 1)
    for n in range(count):
        if group.process == 1 and n % 50 == 0:
            time.sleep(0.05)
        x = add(x * 0.5)
    found = in_turn(jax.jit(lambda x: x, out_shardings=whole), mesh)(x)
    np.testing.assert_allclose(np.asarray(found), 1)
    tell("summed")


def tell(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def job_share(batch, group):
    """The part of a batch that this process loads, as a global batch."""
    return group.batch_of(jax.tree_util.tree_map(
        lambda x: np.split(np.asarray(x), group.count)[group.process], batch))


def assert_shards(leaf, wanted, tolerance, path):
    allowed = tolerance * max(np.abs(wanted).max(initial=0), 1e-3)
    for shard in leaf.addressable_shards:
        np.testing.assert_allclose(numbers(shard.data), wanted[shard.index], atol=allowed, rtol=0, err_msg=path)


def numbers(x) -> np.ndarray:
    return np.asarray(jax.random.key_data(x) if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key) else x, np.float64)


if __name__ == "__main__":
    main()
