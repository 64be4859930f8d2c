"""The pieces of the zoo's families against plain NumPy, or against what defines them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from planner.models.layers import attention, causal_mask, cross_entropy, layer_norm, rms_norm
from planner.models.llama import rotate
from planner.models.lstm import lstm_layer
from planner.models.t5 import BUCKETS, position_bias
from planner.models.wide_resnet import MOMENTUM, batch_norm


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def test_cross_entropy_is_the_mean_negative_log_probability():
    logits, labels = normal(0, 2, 3, 7), np.array([[0, 6, 3], [2, 2, 5]])
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = -np.mean(np.log(np.take_along_axis(probability, labels[..., None], -1)))
    assert float(cross_entropy(logits, jnp.asarray(labels))) == pytest.approx(expected, rel=1e-5)


def test_norms():
    x = 3.0 + normal(0, 4, 64)
    y = layer_norm({"scale": 2.0, "bias": 1.0}, x)
    np.testing.assert_allclose(y.mean(-1), 1.0, atol=1e-5)
    np.testing.assert_allclose(y.std(-1), 2.0, rtol=1e-4)
    np.testing.assert_allclose(np.square(rms_norm(2.0, x)).mean(-1), 4.0, rtol=1e-4)


def test_attention_is_softmax_of_products_times_values():
    x, source = normal(0, 2, 5, 8), normal(1, 2, 6, 8)
    p = {"query": normal(2, 8, 2, 4), "key": normal(3, 8, 2, 4), "value": normal(4, 8, 2, 4), "out": normal(5, 2, 4, 8)}
    expected = np.zeros((2, 5, 8))
    for b in range(2):
        for h in range(2):
            q, k, v = x[b] @ p["query"][:, h], source[b] @ p["key"][:, h], source[b] @ p["value"][:, h]
            weights = np.exp(q @ k.T / 2.0)
            expected[b] += weights / weights.sum(-1, keepdims=True) @ v @ p["out"][h]
    np.testing.assert_allclose(attention(p, x, source=source), expected, rtol=2e-4, atol=2e-4)


def test_causal_mask_leaves_the_past():
    weights = jax.nn.softmax(causal_mask(jnp.zeros((4, 4))), axis=-1)
    np.testing.assert_allclose(weights, np.tril(np.ones((4, 4))) / np.arange(1, 5)[:, None], rtol=1e-6)


def test_rotated_products_depend_on_the_distance_alone():
    q, k = (jnp.broadcast_to(normal(seed, 8), (1, 10, 1, 8)) for seed in (0, 1))
    products = jnp.einsum("bshk,bthk->st", rotate(q, 100.0), rotate(k, 100.0))
    for distance in range(-9, 10):
        line = np.diagonal(products, distance)
        np.testing.assert_allclose(line, line[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(rotate(q, 100.0), axis=-1), np.linalg.norm(q, axis=-1), rtol=1e-5)


def test_lstm_equals_a_loop_over_time():
    x = normal(0, 2, 5, 3)
    p = {"input": normal(1, 3, 4, 3), "recurrent": normal(2, 3, 4, 3), "bias": normal(3, 4, 3)}
    hidden, cell, expected = np.zeros((2, 3)), np.zeros((2, 3)), []
    for t in range(5):
        gates = np.einsum("bd,dgh->gbh", x[:, t], p["input"]) + np.einsum("bd,dgh->gbh", hidden, p["recurrent"])
        take, forget, write, show = gates + p["bias"][:, None]
        cell = cell / (1 + np.exp(-forget)) + np.tanh(write) / (1 + np.exp(-take))
        hidden = np.tanh(cell) / (1 + np.exp(-show))
        expected.append(hidden)
    np.testing.assert_allclose(lstm_layer(p, x), np.stack(expected, 1), rtol=1e-4, atol=1e-5)


def test_position_buckets():
    table = jnp.arange(BUCKETS, dtype=jnp.float32)[:, None]
    both, past = (np.asarray(position_bias(table, 200, causal=causal)[0]).astype(int) for causal in (False, True))
    np.testing.assert_array_equal(past[15, :17], [*range(15, -1, -1), 0])  # near and past: one each; the future: none
    np.testing.assert_array_equal(both[8, 1:8], range(7, 0, -1))
    np.testing.assert_array_equal(both[8, 9:16], range(17, 24))
    assert past[199, 0] == BUCKETS - 1 and both[0, 199] == BUCKETS - 1 and both[199, 0] == BUCKETS // 2 - 1
    assert np.all(np.diff(past[199]) <= 0)


def test_batch_norm_trains_on_the_batch_and_remembers():
    x = 3.0 + 2.0 * normal(0, 64, 2, 2, 4)
    old = {"mean": jnp.zeros(4), "variance": jnp.ones(4)}
    y, new = batch_norm({"scale": 1.0, "bias": 0.0}, old, x, train=True)
    np.testing.assert_allclose(np.std(y, (0, 1, 2)), 1.0, rtol=1e-3)
    np.testing.assert_allclose(new["mean"], (1 - MOMENTUM) * x.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(new["variance"], MOMENTUM + (1 - MOMENTUM) * x.var((0, 1, 2)), rtol=1e-4)
    y, same = batch_norm({"scale": 1.0, "bias": 0.0}, new, x, train=False)
    assert same is new
    np.testing.assert_allclose(y, (x - new["mean"]) / np.sqrt(np.asarray(new["variance"]) + 1e-5), rtol=1e-3, atol=1e-4)
