import threading
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from planner.check.inputs import random_batch
from planner.errors import NonFiniteError, RunError
from planner.model import Model
from planner.runtime import Loop, LoopOptions, compile_plan
from planner.runtime.loop import GO_ON, amount_of, memory, nonfinite_parameter
from planner.runtime.state import Layout, RunState
from tests.runtime import models
from tests.runtime.plans import CLUSTER, Design, record_of

TWO_STAGES = Design(stages=2, mesh_shape=(2,), microbatches=2)


class Kept:
    """A saver that remembers what it was given: steps done -> parameters."""

    def __init__(self, every: int) -> None:
        self.every, self.states = every, {}

    def due(self, count: int) -> bool:
        return count % self.every == 0

    def save(self, count: int, state: RunState, *, force: bool = False) -> bool:
        assert force
        self.states[count] = [np.asarray(x) for x in state.param_leaves]
        return True


def loop_of(model: Model, design: Design, numbers: range, batches=None, **options) -> Loop:
    record = record_of(model, design)
    step, state = compile_plan(record, model, jax.devices()[:record.device_count])
    return Loop(record, step, state, batches or (lambda n: random_batch(model, n)), numbers, LoopOptions(**options))


@pytest.mark.parametrize("design", [Design(mesh_shape=(2,)), TWO_STAGES])
def test_a_loop_has_the_losses_and_states_of_steps_one_by_one(design):
    model = models.mlp()
    record = record_of(model, design)
    step, state = compile_plan(record, model, jax.devices()[:record.device_count])
    wanted, states = [], {}
    for n in range(5):
        state, metrics = step(state, random_batch(model, n))
        wanted.append(float(metrics["loss"]))
        states[n + 1] = [np.asarray(x) for x in state.param_leaves]
    saver = Kept(2)
    loop = loop_of(model, design, range(5), saver=saver)
    done = list(loop)
    assert [(d.number, d.loss) for d in done] == list(enumerate(wanted))
    assert sorted(saver.states) == [2, 4, 5]  # where it is due, and the last
    for count, params in saver.states.items():
        for found, right in zip(params, states[count], strict=True):
            np.testing.assert_array_equal(found, right)
    for found, right in zip(loop.state.param_leaves, states[5], strict=True):
        np.testing.assert_array_equal(found, right)
    assert all(d.time_s > 0 and d.rates.step_s > 0 for d in done)


def test_a_loop_that_is_broken_off_goes_on_where_it_was():
    loop = loop_of(models.mlp(), Design(mesh_shape=(1,)), range(6))
    first = [d.number for _, d in zip(range(2), loop, strict=False)]
    assert first + [d.number for d in loop] == list(range(6))


def scripted(results: list, started: list[int] | None = None, kind: str = "train"):
    """A loop over a step that gives these results in turn."""
    record = replace(record_of(models.mlp(), Design(mesh_shape=(1,))), kind=kind)
    state = RunState((), (), (), Layout((), (), (), None, None, None))

    def step(state, number):
        if started is not None:
            started.append(number)
        return (state, results[number]) if kind != "inference" else results[number]

    return Loop(record, step, state, lambda n: n, range(len(results)))


def test_a_loss_is_fetched_when_the_next_step_is_on_its_way():
    """The loss of step 0 isn't there until something that waits for step 1's start lets it come."""
    started: list[int] = []
    let_go = threading.Event()

    def late(x):
        assert let_go.wait(60)
        return x

    two = jax.sharding.NamedSharding(jax.sharding.Mesh(np.array(jax.devices()[:2]), "d"), jax.sharding.PartitionSpec())
    one = jax.device_put(np.float32(1.0), two)  # programs of a single CPU device may run while they are dispatched
    loss = jax.jit(lambda x: jax.pure_callback(late, jax.ShapeDtypeStruct((), jnp.float32), x))(one)
    loop = iter(scripted([{"loss": loss}, {"loss": jnp.float32(2.0)}], started))
    told: list[float] = []
    running = threading.Thread(target=lambda: told.append(next(loop).loss))
    running.start()
    until = time.monotonic() + 60
    while started != [0, 1] and time.monotonic() < until:
        time.sleep(0.01)
    assert started == [0, 1] and not told
    let_go.set()
    running.join(60)
    assert told == [1.0] and next(loop).loss == 2.0


@pytest.mark.parametrize("kind", ["step", "inference"])
def test_steps_without_a_loss(kind):
    assert [d.loss for d in scripted([jnp.ones(3), {}], kind=kind)] == [None, None]


def test_the_first_step_is_not_in_the_pace():
    class Slow:
        def __init__(self) -> None:
            self.first = True

        def __call__(self, state, batch):
            time.sleep(0.3 if self.first else 0.01)
            self.first = False
            return state, {"loss": jnp.float32(1.0)}

    loop = scripted([{}] * 4)
    loop._step = Slow()
    done = list(loop)
    assert done[0].time_s >= 0.3 and done[0].rates.step_s >= 0.3
    assert done[-1].rates.step_s < 0.3


def poisoned(model: Model, at: int):
    """Batches of which one isn't finite."""
    def batch(n: int):
        found = random_batch(model, n)
        return found if n != at else found | {"x": found["x"] * np.nan}
    return batch


@pytest.mark.parametrize("design", [Design(mesh_shape=(2,)), TWO_STAGES])
def test_a_loss_that_is_not_finite_ends_the_run_with_its_step_and_saves_nothing_after_it(design):
    model, saver = models.mlp(), Kept(1)
    loop = loop_of(model, design, range(6), poisoned(model, 3), saver=saver)
    done = []
    with pytest.raises(NonFiniteError, match="the loss of step 3 is nan") as raised:
        done.extend(loop)
    assert isinstance(raised.value, RunError) and raised.value.step == 3
    assert sorted(saver.states) == [1, 2, 3]
    assert all(np.isfinite(x).all() for params in saver.states.values() for x in params)


def test_gradients_that_are_not_finite_are_not_saved_though_the_loss_is():
    """sqrt(0) is finite, its derivative isn't: the loss of step 1 is the last finite one, its state is not saved."""
    model = Model(lambda p, b: jnp.sum(jnp.sqrt(p["w"] * b)), {"w": jnp.ones(4)}, jnp.ones((2, 4)), optax.sgd(0.1))
    saver = Kept(1)
    batches = [np.ones((2, 4), np.float32), np.zeros((2, 4), np.float32), np.ones((2, 4), np.float32)]
    loop = loop_of(model, Design(mesh_shape=(1,)), range(3), lambda n: batches[n], saver=saver)
    with pytest.raises(NonFiniteError, match="after step 1, parameter 'w' is not finite everywhere"):
        list(loop)
    assert sorted(saver.states) == [1]
    going = loop_of(model, Design(mesh_shape=(1,)), range(3), lambda n: batches[n], saver=Kept(1), nonfinite=GO_ON)
    assert [d.note for d in going] == ["", "not saved: parameter 'w' is not finite",
                                       "not saved: parameter 'w' is not finite"]
    assert nonfinite_parameter(going.state) == "w"


def test_a_run_may_go_on_after_a_loss_that_is_not_finite():
    model = models.mlp()
    done = list(loop_of(model, Design(mesh_shape=(1,)), range(4), poisoned(model, 2), nonfinite=GO_ON))
    assert [d.note for d in done] == ["", "", "the loss is not finite", "the loss is not finite"]


def test_another_way_to_go_on_is_refused():
    with pytest.raises(RunError, match="nonfinite='ignore' is no way to go on"):
        loop_of(models.mlp(), Design(mesh_shape=(1,)), range(1), nonfinite="ignore")


@pytest.mark.parametrize(("batch", "count", "unit"), [
    ({"ids": np.zeros((4, 7), np.int32), "labels": np.zeros((4, 7), np.int32)}, 28, "tokens"),
    ({"image": np.zeros((4, 8, 8, 3), np.float32), "label": np.zeros(4, np.int32)}, 4, "examples")])
def test_what_a_batch_holds(batch, count, unit):
    found = amount_of(batch, 4)
    assert (found.count, found.unit) == (count, unit)


class Counting:
    def __init__(self, peak: int | None) -> None:
        self.peak = peak

    def memory_stats(self):
        return None if self.peak is None else {"peak_bytes_in_use": self.peak}


def test_memory_is_what_devices_count_else_what_the_plan_predicts():
    record = record_of(models.mlp(), TWO_STAGES)
    assert memory(record, [Counting(5), Counting(7)]).peak_bytes == 7
    predicted = memory(record, [Counting(None)])
    assert not predicted.measured and predicted.peak_bytes == max(s.memory.total_bytes for s in record.stages)


def test_utilisation_is_unknown_on_virtual_devices_of_a_plan_for_others():
    model = models.mlp()
    record = record_of(model, Design(mesh_shape=(1,)))
    _, state = compile_plan(record, model, jax.devices()[:1])

    def step(state, batch):
        return state, {"loss": 1.0}

    other = replace(record, cluster=replace(CLUSTER, device=replace(CLUSTER.device, name="A100")))
    found = [next(iter(Loop(r, step, state, lambda n: random_batch(model, n), range(1)))).rates.mfu
             for r in (replace(record, kind="step"), replace(other, kind="step"))]
    assert found[0] is not None and found[1] is None
