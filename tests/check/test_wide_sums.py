"""Sums of half precision in float32, wherever a function has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from planner.check.report import TensorCheck
from planner.check.wide_sums import with_wide_sums


def added(x):
    """A sum in the dtype of its operand, which `jnp.sum` would widen by itself."""
    return lax.reduce_sum_p.bind(x, axes=(0,), out_sharding=None)


@jax.custom_vjp
def doubled(x):
    return 2 * added(x)


doubled.defvjp(lambda x: (doubled(x), x), lambda x, g: (2 * jnp.broadcast_to(g, x.shape),))

PLACES = {
    "as it is": added,
    "in jit": jax.jit(added),
    "in a loop": lambda x: lax.scan(lambda c, row: (c + 1, added(row)), 0, jnp.stack([x, x]))[1][1],
    "in a while loop": lambda x: lax.while_loop(lambda c: c[0] < 1, lambda c: (c[0] + 1, added(x)), (0, x[0]))[1],
    "in a branch": lambda x: lax.cond(x[0] > -1e9, added, lambda y: y[0], x),
    "checkpointed": jax.checkpoint(added),
    "under a rule": lambda x: doubled(x) / 2,
}


@pytest.mark.parametrize("where", PLACES)
def test_sums_are_wide(where):
    """1 and 4,095 halves of what bfloat16 keeps beside it: in bfloat16, one after another, they would all be lost."""
    x = jnp.concatenate([jnp.ones(1), jnp.full(4095, 2.0**-9)]).astype(jnp.bfloat16)
    total = jax.jit(with_wide_sums(PLACES[where]))(x)
    assert total.dtype == jnp.bfloat16
    assert float(total) == pytest.approx(float(np.asarray(x, np.float64).sum()), rel=2**-8)


def test_other_dtypes_and_trees_stay_as_they_are():
    def fn(tree):
        return {"sum": added(tree["a"]), "same": tree["b"]}

    given = {"a": jnp.arange(6, dtype=jnp.float32), "b": jnp.arange(3)}
    assert jax.tree_util.tree_map(np.array_equal, with_wide_sums(fn)(given), fn(given)) == {"sum": True, "same": True}


def test_a_gradient_through_them_is_near_the_truth():
    """The gradient of a bias: a sum over all rows."""
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(4096, 4)), jnp.bfloat16)

    def loss(bias):
        return ((rows + bias) * rows).astype(jnp.float32).sum()

    right = np.asarray(rows, np.float64).sum(0)
    bias = jnp.zeros(4, jnp.bfloat16)
    wide = np.asarray(jax.jit(with_wide_sums(jax.grad(loss)))(bias), np.float64)
    assert np.abs(wide - right).max() <= 2**-7 * np.abs(right).max()


@pytest.mark.parametrize(("wide_error", "plain_error", "passed"), [(0.05, 0.0, True), (0.3, 0.6, True),
                                                                   (0.3, 0.2, False), (0.6, 0.6, True)])
def test_the_nearer_of_two_measures_counts(wide_error, plain_error, passed):
    check = TensorCheck("gradient", "bias", 0.9, 0.1, 0.001, wide_error, plain_error)
    assert check.passed is passed and check.nearest == wide_error
