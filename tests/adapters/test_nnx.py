"""The NNX adapter computes what NNX computes, and threads statistics and RNG counts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from planner.adapters import from_nnx, nnx_module
from planner.errors import ModelError
from planner.model import leaves_with_paths


class Net(nnx.Module):
    def __init__(self, rngs):
        self.blocks = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(12)])  # 12: "10" sorts before "2" as text
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        for n, block in enumerate(self.blocks):
            x = block(x) * (n + 1) / 4
        return self.dropout(self.norm(x))


class Plain(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.linear(x)


def loss_fn(module, batch):
    return jnp.mean((module(batch["x"]) - batch["y"]) ** 2)


@pytest.fixture
def batch():
    x, y = np.random.default_rng(0).standard_normal((2, 6, 4), dtype=np.float32)
    return {"x": x, "y": y}


def same(left, right):
    jax.tree_util.tree_map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), left, right)


def test_loss_gradients_and_state_equal_the_frameworks_own(batch):
    module = Net(nnx.Rngs(3))
    model = from_nnx(module, loss_fn, batch, optax.sgd(0.1))
    params, state = model.params, model.state
    for _ in range(2):  # the second step sees changed statistics and RNG counts
        (loss, state), grads = jax.value_and_grad(model.fn, has_aux=True)(params, state, batch)
        expected, expected_grads = nnx.value_and_grad(loss_fn)(module, batch)
        assert float(loss) == pytest.approx(float(expected), rel=1e-6)
        same(grads, nnx.to_pure_dict(expected_grads))
        assert int(state["dropout"]["rngs"]["count"]) == int(module.dropout.rngs.count[...])
        same(state["norm"], {"mean": module.norm.mean[...], "var": module.norm.var[...]})


def test_model_is_pure(batch):
    module = Net(nnx.Rngs(3))
    model = from_nnx(module, loss_fn, batch, optax.sgd(0.1))
    first, again = (model.fn(model.params, model.state, batch)[0] for _ in range(2))
    assert float(first) == float(again)
    assert int(module.dropout.rngs.count[...]) == 0
    np.testing.assert_array_equal(module.norm.mean[...], 0)


def test_abstract_module_gives_the_same_program(batch):
    real = from_nnx(Net(nnx.Rngs(3)), loss_fn, batch, optax.sgd(0.1))
    abstract = from_nnx(nnx.eval_shape(lambda: Net(nnx.Rngs(3))), loss_fn, batch, optax.sgd(0.1))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree_util.tree_leaves(abstract.params))
    assert float(abstract.fn(real.params, real.state, batch)[0]) == float(real.fn(real.params, real.state, batch)[0])
    assert jax.eval_shape(abstract.fn, abstract.params, abstract.state, batch)[0].shape == ()


def test_paths_read_as_in_the_module(batch):
    paths = [path for path, _ in leaves_with_paths(from_nnx(Net(nnx.Rngs(0)), loss_fn, batch, optax.sgd(0.1)).params)]
    assert "blocks/10/kernel" in paths and "norm/scale" in paths and "norm/mean" not in paths


def test_without_state_the_loss_has_two_arguments(batch):
    module = Plain(nnx.Rngs(0))
    model = from_nnx(module, lambda m, b: (m(b["x"]).sum(), {"mean": m(b["x"]).mean()}), batch, optax.sgd(0.1),
                     name="p")
    loss, aux = model.fn(model.params, batch)
    assert model.state is None and model.name == "p" and model.kind == "train"
    np.testing.assert_allclose(loss, module(batch["x"]).sum(), rtol=1e-6)
    np.testing.assert_allclose(aux["mean"], module(batch["x"]).mean(), rtol=1e-6)


def test_aux_follows_the_state(batch):
    model = from_nnx(Net(nnx.Rngs(0)), lambda m, b: (loss_fn(m, b), {"seen": b["x"].sum()}), batch, optax.sgd(0.1))
    _, state, aux = model.fn(model.params, model.state, batch)
    assert set(state) == set(model.state) and set(aux) == {"seen"}


def test_inference_returns_outputs(batch):
    module = Plain(nnx.Rngs(0))
    model = from_nnx(module, lambda m, b: (m(b["x"]), b["y"]), batch)
    outputs, y = model.fn(model.params, batch)
    assert model.kind == "inference"
    np.testing.assert_allclose(outputs, module(batch["x"]), rtol=1e-6)
    np.testing.assert_array_equal(y, batch["y"])


def test_trained_parameters_go_back_into_the_module(batch):
    module = Net(nnx.Rngs(3))
    model = from_nnx(module, loss_fn, batch, optax.sgd(0.1))
    doubled = jax.tree_util.tree_map(lambda x: 2 * x, model.params)
    copy = nnx_module(module, doubled, model.state)
    same(nnx.to_pure_dict(nnx.state(copy, nnx.Param)), doubled)
    same(nnx.to_pure_dict(nnx.state(module, nnx.Param)), model.params)


def test_nothing_to_train_is_refused(batch):
    with pytest.raises(ModelError, match="no variable that passes"):
        from_nnx(Plain(nnx.Rngs(0)), loss_fn, batch, optax.sgd(0.1), trainable=nnx.BatchStat)
