"""The Equinox adapter computes what Equinox computes, and threads its state."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from planner.adapters import equinox_module, from_equinox
from planner.errors import ModelError
from planner.model import leaves_with_paths


class Normed(eqx.Module):
    linear: eqx.nn.Linear
    norm: eqx.nn.BatchNorm

    def __init__(self, key):
        self.linear = eqx.nn.Linear(4, 4, key=key)
        self.norm = eqx.nn.BatchNorm(4, "batch", mode="batch")

    def __call__(self, x, state):
        return self.norm(self.linear(x), state)


class Counted(eqx.Module):
    weight: jax.Array
    table: jax.Array

    def __call__(self, x):
        return x[:, self.table] * self.weight


def mlp(seed=0):
    return eqx.nn.MLP(4, 4, 8, 2, key=jax.random.key(seed))


def loss_fn(module, batch):
    return jnp.mean((jax.vmap(module)(batch["x"]) - batch["y"]) ** 2)


def normed_loss(module, state, batch):
    outputs, state = jax.vmap(module, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(batch["x"], state)
    return jnp.mean((outputs - batch["y"]) ** 2), state


@pytest.fixture
def batch():
    x, y = np.random.default_rng(0).standard_normal((2, 6, 4), dtype=np.float32)
    return {"x": x, "y": y}


def same(left, right):
    jax.tree_util.tree_map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), left, right)


def test_loss_and_gradients_equal_the_frameworks_own(batch):
    module = mlp()
    model = from_equinox(module, loss_fn, batch, optax.sgd(0.1))
    loss, grads = jax.value_and_grad(model.fn)(model.params, batch)
    expected, expected_grads = eqx.filter_value_and_grad(loss_fn)(module, batch)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    same(jax.tree_util.tree_leaves(grads), jax.tree_util.tree_leaves(expected_grads))
    assert model.name == "MLP"


def test_state_is_threaded(batch):
    module, initial = eqx.nn.make_with_state(Normed)(jax.random.key(0))
    model = from_equinox(module, normed_loss, batch, optax.sgd(0.1), state=initial)
    loss, state = model.fn(model.params, model.state, batch)
    second, state = jax.jit(model.fn)(model.params, state, batch)
    expected, own = normed_loss(module, initial, batch)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    own = normed_loss(module, own, batch)[1]
    same(jax.tree_util.tree_leaves(state), jax.tree_util.tree_leaves(own))
    assert np.isfinite(second)


def test_optimizer_takes_the_parameters(batch):
    model = from_equinox(mlp(), loss_fn, batch, optax.adam(1e-2))
    updates, _ = model.optimizer.update(jax.grad(model.fn)(model.params, batch), model.optimizer.init(model.params))
    params = optax.apply_updates(model.params, updates)
    assert model.fn(params, batch) < model.fn(model.params, batch)
    module = equinox_module(mlp(), params)
    np.testing.assert_allclose(loss_fn(module, batch), model.fn(params, batch), rtol=1e-6)


def test_abstract_module_gives_the_same_program(batch):
    real = from_equinox(mlp(), loss_fn, batch, optax.sgd(0.1))
    abstract = from_equinox(eqx.filter_eval_shape(mlp), loss_fn, batch, optax.sgd(0.1))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree_util.tree_leaves(abstract.params))
    assert [path for path, _ in leaves_with_paths(abstract.params)][:2] == ["layers/0/weight", "layers/0/bias"]
    assert float(abstract.fn(real.params, batch)) == float(real.fn(real.params, batch))


def test_integer_arrays_are_constants(batch):
    module = Counted(jnp.ones(4), jnp.array([3, 2, 1, 0]))
    model = from_equinox(module, lambda m, b: m(b["x"]), batch)
    assert [path for path, _ in leaves_with_paths(model.params)] == ["weight"]
    np.testing.assert_array_equal(model.fn(model.params, batch), batch["x"][:, ::-1])


def test_abstract_integer_arrays_are_refused(batch):
    module = Counted(jax.ShapeDtypeStruct((4,), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.int32))
    with pytest.raises(ModelError, match=r"Counted\.table is abstract"):
        from_equinox(module, loss_fn, batch, optax.sgd(0.1))


def test_nothing_to_train_is_refused(batch):
    with pytest.raises(ModelError, match="no floating-point array"):
        from_equinox(jnp.arange(3), loss_fn, batch, optax.sgd(0.1))
