"""Inference, user-written steps, bad input, and what a state is."""

import dataclasses
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from planner.errors import BatchError, ModelError, PlanMismatchError
from planner.model import Model, train_step
from planner.runtime import compile_plan
from tests.runtime import models
from tests.runtime.plans import Design, record_of

INFERENCE = [Design(), Design(microbatches=4),
             Design(stages=2, mesh_shape=(4,), microbatches=4, schedule="forward-only")]


def started(model, design):
    record = record_of(model, design)
    return compile_plan(record, model, jax.devices()[:record.device_count])


@pytest.mark.parametrize("design", INFERENCE)
def test_inference_outputs_are_concatenated(design):
    params = [jnp.eye(8) * (n + 1) for n in range(4)]

    def forward(params, batch):
        for w in params:
            batch = batch @ w
        return {"out": batch, "mean": batch.mean()}

    model = Model(forward, params, jnp.arange(128.0).reshape(16, 8))
    run, state = started(model, design)
    out = run(state, model.batch)
    np.testing.assert_allclose(out["out"], model.batch * 24, rtol=1e-6)
    np.testing.assert_allclose(out["mean"], model.batch.mean() * 24, rtol=1e-6)


@pytest.mark.parametrize("design", INFERENCE[1:])
def test_inference_with_state_counts_microbatches(design):
    def forward(params, state, batch):
        return batch * params + state, state + 1

    model = Model(forward, jnp.ones(8), jnp.zeros((16, 8)), state=jnp.zeros(()))
    run, state = started(model, design)
    out, state = run(state, model.batch)
    np.testing.assert_array_equal(np.asarray(out)[::4, 0], [0, 1, 2, 3])
    assert state.state == 4


def test_a_step_that_the_user_wrote():
    base, optimizer = models.mlp(), optax.adam(1e-2)

    def fn(state, batch):
        (loss, _), grads = jax.value_and_grad(base.fn, has_aux=True)(state["params"], batch)
        updates, opt = optimizer.update(grads, state["opt"])
        return {"params": optax.apply_updates(state["params"], updates), "opt": opt}, {"loss": loss}

    model = train_step(fn, {"params": base.params, "opt": optimizer.init(base.params)}, base.batch)
    step, state = started(model, Design())
    wanted = model.state
    for _ in range(3):
        state, metrics = step(state, model.batch)
        wanted, right = jax.jit(fn)(wanted, model.batch)
        np.testing.assert_allclose(metrics["loss"], right["loss"], rtol=1e-6)
    jax.tree_util.tree_map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.state, wanted)


def test_another_model_is_refused():
    with pytest.raises(PlanMismatchError, match="fingerprint"):
        compile_plan(record_of(models.mlp(), Design()), models.mlp(layers=2), jax.devices())
    with pytest.raises(PlanMismatchError, match="inference"):
        compile_plan(record_of(models.mlp(), Design()), dataclasses.replace(models.mlp(), optimizer=None),
                     jax.devices())


def test_another_number_of_devices_is_refused():
    with pytest.raises(PlanMismatchError, match="8 devices, 4"):
        compile_plan(record_of(models.mlp(), Design()), models.mlp(), jax.devices()[:4])


def test_a_spec_that_does_not_divide_is_refused():
    record = record_of(models.mlp(), Design())
    stage = record.stages[0]
    broken = dataclasses.replace(stage, specs=((record.params[0].value, ((0, 0),)), *stage.specs))
    with pytest.raises(PlanMismatchError, match="does not divide"):
        compile_plan(dataclasses.replace(record, stages=(broken,)), models.mlp(), jax.devices())


def test_a_schedule_without_backward_is_refused_for_training():
    record = record_of(models.mlp(), Design(stages=2, mesh_shape=(4,), schedule="forward-only"))
    with pytest.raises(PlanMismatchError, match="does not serve train"):
        compile_plan(record, models.mlp(), jax.devices())


def test_abstract_parameters_need_numbers():
    model = models.mlp()
    record = record_of(model, Design())
    bare = dataclasses.replace(model, params=jax.eval_shape(lambda: model.params))
    with pytest.raises(ModelError, match=r"params leaf 'layer0/b'"):
        compile_plan(record, bare, jax.devices())
    _, state = compile_plan(record, bare, jax.devices(), params=model.params)
    np.testing.assert_array_equal(state.params["layer1"]["w"], model.params["layer1"]["w"])


@pytest.mark.parametrize("design", [Design(), Design(stages=2, mesh_shape=(4,), microbatches=4)], ids=["one", "two"])
def test_a_step_lets_go_of_the_first_parameters(design):
    """A second copy of them would lie beside the state for all of training."""
    model = models.mlp()
    record = record_of(model, design)
    given = jax.tree_util.tree_map(lambda x: jnp.array(x, copy=True), model.params)
    kept = [weakref.ref(x) for x in jax.tree_util.tree_leaves(given)]
    shapes = dataclasses.replace(model, params=jax.eval_shape(lambda: model.params))
    step, state = compile_plan(record, shapes, jax.devices()[:record.device_count], params=given)
    del given
    assert not any(r() for r in kept)
    assert np.isfinite(step(state, model.batch)[1]["loss"])


def test_another_batch_is_refused():
    step, state = started(models.mlp(), Design())
    with pytest.raises(BatchError, match="'x' has shape"):
        step(state, {"x": np.ones((8, 8)), "y": np.ones((16, 8))})
    with pytest.raises(BatchError, match="leaves"):
        step(state, {"x": np.ones((16, 8))})


def test_the_state_lies_where_the_plan_says_and_is_a_pytree():
    """ZeRO: moments sharded, parameters whole; rows of two stages are stacked again for the user."""
    spec = lambda path, shape: ((0,), *((),) * (len(shape) - 1))  # noqa: E731
    _, state = started(models.mlp(), Design(updated=spec))
    moment = state.opt_state[0].mu["layer0"]["w"]
    assert moment.sharding.shard_shape(moment.shape) == (1, 8)
    assert state.params["layer0"]["w"].sharding.is_fully_replicated
    again = jax.tree_util.tree_map(lambda x: x, state)
    assert again.layout == state.layout
    stacked = models.stacked()
    _, state = started(stacked, Design(stages=4, mesh_shape=(), batch_axes=()))
    np.testing.assert_array_equal(state.params["layers"]["w"], stacked.params["layers"]["w"])


def test_one_stage_is_never_many_steps_ahead_on_cpu():
    """XLA's CPU client may hang with 32 programs under way: within 4,000 steps that nobody waited for it did."""
    model = models.mlp()
    step, state = started(model, Design())
    losses = []
    for n in range(50):
        state, metrics = step(state, model.batch)
        losses.append(metrics["loss"])
        assert all(x.is_ready() for x in losses[:-2])
        if n == 20:
            losses.pop().delete()  # the user's own to give away
    assert all(np.isfinite(x) for x in losses)
