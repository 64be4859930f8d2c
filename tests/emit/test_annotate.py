"""The annotations alone: the user's function with constraints, under the user's own `jit` and `grad`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from planner.core.spec import replicated
from planner.emit import annotate as emit
from planner.errors import MeshError, PlanMismatchError
from tests.runtime import models
from tests.runtime.plans import Design, record_of


def first_dim(path, shape):
    return ((0,), *replicated(len(shape) - 1))


@pytest.fixture(scope="module")
def plan():
    return record_of(models.mlp(), Design(stored=first_dim))


def test_in_shardings_are_those_of_the_plan(plan, mesh8):
    params, batch = emit.in_shardings(plan, models.mlp(), mesh8)
    assert params["layer0"]["w"].spec == jax.sharding.PartitionSpec("a", None)
    assert batch["x"].spec == jax.sharding.PartitionSpec("a", None)
    assert list(params["layer0"]["w"].mesh.devices.flat) == list(mesh8.devices.flat)


def test_the_function_differentiates_as_the_users_does(plan, mesh8):
    model = models.mlp()
    fn = emit.annotate(plan, model, mesh8)
    shardings = emit.in_shardings(plan, model, mesh8)
    args = jax.device_put((model.params, model.batch), shardings)
    found = jax.jit(jax.value_and_grad(fn, has_aux=True), in_shardings=shardings)(*args)
    wanted = jax.jit(jax.value_and_grad(model.fn, has_aux=True))(model.params, model.batch)
    jax.tree_util.tree_map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, wanted)


def test_constraints_are_in_the_program(plan, mesh8):
    text = jax.jit(emit.annotate(plan, models.mlp(), mesh8)).lower(models.mlp().params, models.mlp().batch).as_text()
    assert text.count("sharding_constraint") + text.count("@Sharding") >= 4


def test_without_a_mesh_the_context_gives_it(plan, mesh8):
    model = models.mlp()
    fn = emit.annotate(plan, model)
    with pytest.raises(MeshError, match="axes"):
        jax.jit(fn)(model.params, model.batch)
    auto = jax.sharding.Mesh(mesh8.devices, ("a",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(auto):
        loss, aux = jax.jit(fn)(model.params, model.batch)
    np.testing.assert_allclose(loss, model.fn(model.params, model.batch)[0], rtol=1e-6)
    assert set(aux) == {"mean", "out"}


def test_state_and_rows_come_back_in_the_users_form(mesh8):
    model = models.stateful()
    out = emit.annotate(record_of(model, Design()), model, mesh8)(model.params, model.state, model.batch)
    wanted = model.fn(model.params, model.state, model.batch)
    assert jax.tree_util.tree_structure(out) == jax.tree_util.tree_structure(wanted)
    stacked = models.stacked()
    params, _ = emit.in_shardings(record_of(stacked, Design(stored=first_dim)), stacked, mesh8)
    assert params["layers"]["w"].spec == jax.sharding.PartitionSpec(None, "a", None)
    assert jnp.ndim(emit.annotate(record_of(stacked, Design()), stacked, mesh8)(stacked.params, stacked.batch)) == 0


def test_several_stages_are_refused(mesh8):
    record = record_of(models.mlp(), Design(stages=2, mesh_shape=(4,)))
    with pytest.raises(PlanMismatchError, match="one stage"):
        emit.annotate(record, models.mlp())
    with pytest.raises(PlanMismatchError, match="one stage"):
        emit.in_shardings(record, models.mlp(), mesh8)


def test_another_size_of_mesh_is_refused(plan):
    with pytest.raises(MeshError, match="8 devices"):
        emit.in_shardings(plan, models.mlp(), jax.devices()[:4])
