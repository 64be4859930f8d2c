"""Mixture of experts by einsum: top-2 gating with a capacity per expert, dispatch, expert feed-forward, combine.

Tokens are gated in groups: an expert takes at most `capacity` tokens of a group, first choices before second ones, and
who finds no place goes through the residual connection alone. (Where an expert is full, later tokens push out earlier
ones; a decoder that must not look ahead needs room to spare.) Groups never depend on the rest of the batch, so that
microbatches compute what the whole batch does. Source: Lepikhin et al. 2020 (GShard), algorithm 1, without its random
drop of second experts.

Shapes: g group, s token of the group, e expert, c place in the expert's capacity, d hidden, f feed-forward size.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp


def top2_gating(logits: jax.Array, capacity: int) -> tuple[jax.Array, jax.Array]:
    """Who goes where with which weight, and how unbalanced the experts are.

    Args:
      logits: `[g, s, e]`, float32.
      capacity: places per expert and group.

    Returns:
      (weights `[g, s, e, c]`, zero where a token isn't sent; load-balance loss, a scalar that is 1 for even experts).
    """
    experts = logits.shape[-1]
    gates = jax.nn.softmax(logits, axis=-1)
    first = jax.nn.one_hot(jnp.argmax(gates, axis=-1), experts, dtype=gates.dtype)
    others = gates * (1.0 - first)
    second = jax.nn.one_hot(jnp.argmax(others, axis=-1), experts, dtype=gates.dtype)

    gate1, gate2 = jnp.sum(gates * first, axis=-1), jnp.sum(others * second, axis=-1)
    total = gate1 + gate2
    place1 = jnp.cumsum(first, axis=1) - first
    place2 = jnp.cumsum(second, axis=1) - second + jnp.sum(first, axis=1, keepdims=True)
    weights = (_send(first, place1, gate1 / total, capacity) + _send(second, place2, gate2 / total, capacity))
    balance = experts * jnp.mean(jnp.sum(jnp.mean(first, axis=1) * jnp.mean(gates, axis=1), axis=-1))
    return weights, balance


def mixture(x: jax.Array, router: jax.Array, experts: Callable[[jax.Array], jax.Array], *, group: int,
            capacity_factor: float) -> tuple[jax.Array, jax.Array]:
    """Send tokens to two experts each and add up what they say.

    Args:
      x: `[b, s, d]`.
      router: `[d, e]`.
      experts: maps `[e, g, c, d]` to the same shape, each expert with its own weights.
      group: tokens gated together; the largest common divisor with the number of tokens is taken.
      capacity_factor: places per expert over its fair share of `2 * group` choices.

    Returns:
      (`[b, s, d]`, load-balance loss).
    """
    size = math.gcd(group, x.shape[0] * x.shape[1])
    tokens = x.reshape(-1, size, x.shape[-1])
    logits = jnp.einsum("gsd,de->gse", tokens.astype(jnp.float32), router.astype(jnp.float32))
    capacity = max(1, math.ceil(capacity_factor * 2 * size / router.shape[1]))
    weights, balance = top2_gating(logits, capacity)
    dispatched = jnp.einsum("gsec,gsd->egcd", (weights > 0).astype(x.dtype), tokens)
    combined = jnp.einsum("gsec,egcd->gsd", weights.astype(x.dtype), experts(dispatched))
    return combined.reshape(x.shape), balance


def _send(choice: jax.Array, place: jax.Array, gate: jax.Array, capacity: int) -> jax.Array:
    """Weights `[g, s, e, c]` of one choice `[g, s, e]` per token; a place beyond the capacity becomes all zeros."""
    position = jnp.sum(place * choice, axis=-1).astype(jnp.int32)
    places = jax.nn.one_hot(position, capacity, dtype=gate.dtype)
    return gate[..., None, None] * choice[..., None] * places[..., None, :]
