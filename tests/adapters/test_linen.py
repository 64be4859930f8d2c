"""The Linen adapter computes what Linen computes, and threads collections and dropout keys."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

from planner.adapters import from_linen, linen_variables
from planner.errors import ModelError
from planner.model import leaves_with_paths


class Net(linen.Module):
    rate: float = 0.5

    @linen.compact
    def __call__(self, x):
        x = linen.BatchNorm(use_running_average=False)(linen.Dense(4)(x))
        x = linen.Dropout(self.rate, deterministic=False)(x) if self.rate else x
        return linen.Dense(4)(x)


class Plain(linen.Module):
    @linen.compact
    def __call__(self, x):
        init = linen.with_partitioning(linen.initializers.lecun_normal(), (None, "model"))
        return linen.Dense(2, kernel_init=init)(x)


def loss_fn(apply, batch):
    return jnp.mean((apply(batch["x"]) - batch["y"]) ** 2)


@pytest.fixture
def batch():
    x, y = np.random.default_rng(0).standard_normal((2, 6, 4), dtype=np.float32)
    return {"x": x, "y": y}


@pytest.fixture
def variables(batch):
    return Net().init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, batch["x"])


def same(left, right):
    jax.tree_util.tree_map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), left, right)


def test_loss_gradients_and_state_equal_the_frameworks_own(batch, variables):
    model = from_linen(Net(rate=0.0), variables, loss_fn, batch, optax.sgd(0.1))

    def own(params, statistics):
        outputs, changed = Net(rate=0.0).apply({"params": params, **statistics}, batch["x"], mutable=["batch_stats"])
        return jnp.mean((outputs - batch["y"]) ** 2), changed

    state, statistics = model.state, {"batch_stats": variables["batch_stats"]}
    for _ in range(2):
        (loss, state), grads = jax.value_and_grad(model.fn, has_aux=True)(model.params, state, batch)
        (expected, statistics), expected_grads = jax.value_and_grad(own, has_aux=True)(variables["params"], statistics)
        assert float(loss) == pytest.approx(float(expected), rel=1e-6)
        same(grads, expected_grads)
        same(state, statistics)


def test_dropout_draws_anew_in_each_call_and_step(batch, variables):
    model = from_linen(Net(), variables, lambda apply, b: (apply(b["x"]), apply(b["x"])), batch,
                       rngs={"dropout": jax.random.key(5)})
    (first, second), state = model.fn(model.params, model.state, batch)
    (third, _), _ = model.fn(model.params, state, batch)
    (again, _), _ = model.fn(model.params, model.state, batch)
    assert np.any(first != second) and np.any(first != third)
    np.testing.assert_array_equal(first, again)
    assert set(linen_variables(model.params, state)) == {"params", "batch_stats"}


def test_dropout_equals_the_frameworks_own(batch, variables):
    model = from_linen(Net(), variables, loss_fn, batch, optax.sgd(0.1), rngs={"dropout": jax.random.key(5)})
    key = jax.random.split(jax.random.key(5))[1]
    outputs, _ = Net().apply(variables, batch["x"], rngs={"dropout": key}, mutable=["batch_stats"])
    assert float(model.fn(model.params, model.state, batch)[0]) == pytest.approx(
        float(jnp.mean((outputs - batch["y"]) ** 2)), rel=1e-6)


def test_abstract_variables_and_partitioning_metadata(batch):
    variables = jax.eval_shape(Plain().init, jax.random.key(0), batch["x"])
    model = from_linen(Plain(), variables, lambda apply, b: apply(b["x"]).sum(), batch, optax.sgd(0.1), name="p")
    assert [path for path, _ in leaves_with_paths(model.params)] == ["Dense_0/bias", "Dense_0/kernel"]
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree_util.tree_leaves(model.params))
    assert model.state is None and model.name == "p"
    assert jax.eval_shape(model.fn, model.params, batch).shape == ()


def test_no_parameters_is_refused(batch):
    with pytest.raises(ModelError, match="no `params`"):
        from_linen(Plain(), {"batch_stats": {}}, loss_fn, batch, optax.sgd(0.1))


def test_a_collection_named_rngs_is_refused(batch, variables):
    with pytest.raises(ModelError, match="'rngs'"):
        from_linen(Net(), {**variables, "rngs": {"x": jnp.ones(())}}, loss_fn, batch, optax.sgd(0.1))
