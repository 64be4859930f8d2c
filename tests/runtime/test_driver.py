"""The driver of a pipeline: what it holds and lets go, and that it never waits for a device."""

import threading

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from planner.check.inputs import random_batch
from planner.runtime.batches import checked_batch, in_parts
from planner.runtime.compile import build_step, compile_plan
from planner.runtime.driver import Drive
from planner.runtime.pipeline import PipelineStep
from planner.runtime.placement import initial_state
from tests.runtime import models
from tests.runtime.plans import Design, record_of
from tests.runtime.test_routes import late

TWO_BY_TWO = Design(stages=2, mesh_shape=(2,), microbatches=2)


def started(design: Design, model) -> tuple[PipelineStep, object]:
    record = record_of(model, design)
    built = build_step(record, model, jax.devices()[:record.device_count])
    assert isinstance(built.step, PipelineStep)
    return built.step, initial_state(record, model, built.program, built.placed)


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe", "zb-h1"])
@pytest.mark.parametrize("build", [models.mlp, models.tied, models.stateful])
def test_nothing_of_a_microbatch_is_held_when_its_last_task_was_started(build, schedule):
    model = build()
    step, state = started(Design(stages=2, mesh_shape=(2,), microbatches=2, schedule=schedule), model)
    drive = Drive(step._driver, 2)
    drive.give(state.param_leaves, checked_batch(step._leaves, random_batch(model, 0)), state.state_leaves)
    left = {key: set(held) for key, held in drive._held.items()}
    for n, task in enumerate(step._order):
        drive.do(task)
        later = {(t.stage, t.microbatch) for t in step._order[n + 1:]}
        left = {key: set(held) for key, held in drive._held.items() if key not in later}
        assert not any(left.values()), f"after {task}"
    assert len(left) == 4


def test_the_driver_never_waits_for_a_device():
    """A step whose batch isn't there yet returns; it goes on by itself when the batch comes."""
    model = models.mlp()
    record = record_of(model, TWO_BY_TWO)
    step, state = compile_plan(record, model, jax.devices()[:4])
    ready = random_batch(model, 0)
    place = NamedSharding(Mesh(np.array(jax.devices()[:2]), "x"), P())
    batch = jax.device_put(ready, place)
    for _ in range(2):  # compiles, as it will be called
        state, _ = step(state, batch)
    let_go, done = threading.Event(), []
    waiting = jax.jit(lambda x, late: x + 0 * late.sum())(batch["x"], late(place, let_go))

    def call() -> None:
        done.append(step(state, {**batch, "x": waiting}))

    calling = threading.Thread(target=call)
    calling.start()
    calling.join(60)
    returned = not calling.is_alive()
    let_go.set()
    calling.join(60)
    assert returned, "the step waited for its batch"
    assert np.isfinite(done[0][1]["loss"])


@pytest.mark.parametrize("kind", [np.asarray, jax.numpy.asarray])
def test_a_batch_is_cut_microbatch_by_microbatch(kind):
    a, b = np.arange(12).reshape(6, 2), np.arange(6)
    found = in_parts([kind(a), kind(b)], 3)
    for m in range(3):
        np.testing.assert_array_equal(found[2 * m], a[2 * m:2 * m + 2])
        np.testing.assert_array_equal(found[2 * m + 1], b[2 * m:2 * m + 2])
    assert in_parts([], 3) == []
