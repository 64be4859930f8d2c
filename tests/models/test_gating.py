"""Top-2 gating against a plain loop over tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from planner.models.gating import mixture, top2_gating


def by_hand(logits, capacity):
    """Every token picks its two best experts; first choices are seated before second ones, each in token order."""
    groups, tokens, experts = logits.shape
    gates = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    weights = np.zeros((groups, tokens, experts, capacity))
    for g in range(groups):
        seated = [0] * experts
        order = np.argsort(-gates[g], axis=-1)[:, :2]
        for choice in (0, 1):
            for s in range(tokens):
                expert = order[s, choice]
                if seated[expert] < capacity:
                    total = gates[g, s, order[s, 0]] + gates[g, s, order[s, 1]]
                    weights[g, s, expert, seated[expert]] = gates[g, s, expert] / total
                seated[expert] += 1
    return weights


@pytest.mark.parametrize("capacity", [1, 2, 3, 8])
def test_gating_equals_a_loop_over_tokens(capacity):
    logits = np.random.default_rng(capacity).standard_normal((3, 8, 4)).astype(np.float32)
    weights, _ = top2_gating(jnp.asarray(logits), capacity)
    np.testing.assert_allclose(weights, by_hand(logits, capacity), atol=1e-6)


def test_balance_is_one_when_even_and_larger_when_not():
    even = 20.0 * jnp.eye(4)[None]
    assert float(top2_gating(even, 4)[1]) == pytest.approx(1.0, rel=1e-3)
    assert float(top2_gating(even[:, :1].repeat(4, 1), 4)[1]) == pytest.approx(4.0, rel=1e-3)


def test_equal_experts_with_room_give_what_one_expert_gives():
    x = jax.random.normal(jax.random.key(0), (2, 8, 16))
    router = jax.random.normal(jax.random.key(1), (16, 4))
    y, _ = mixture(x, router, lambda tokens: 3.0 * tokens, group=8, capacity_factor=2.0)
    np.testing.assert_allclose(y, 3.0 * x, rtol=1e-5)


def test_tokens_without_a_place_get_nothing():
    x = jnp.ones((1, 8, 16))  # all the same: all want the same two experts, which have one place each
    router = jax.random.normal(jax.random.key(1), (16, 8))
    y, _ = mixture(x, router, lambda tokens: tokens, group=8, capacity_factor=0.5)
    np.testing.assert_allclose(y[0, 0], x[0, 0], rtol=1e-6)
    np.testing.assert_array_equal(y[0, 1:], 0.0)
