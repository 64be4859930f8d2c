"""Parameters and batches as declarations: shapes and how to fill them, so that any size costs nothing to state.

A family states its parameters as a pytree of `Param` and its batch as `Field`s. From them come abstract arrays (for
planning) or real ones (for running), both without tracing anything.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True, slots=True)
class Param:
    """One float32 parameter: `mean + std * normal`, of a shape."""

    shape: tuple[int, ...]
    mean: float = 0.0
    std: float = 0.0


@dataclass(frozen=True, slots=True)
class Field:
    """One leaf of a batch, without its batch dimension: integers in `[0, limit)`, or normal float32 if 0."""

    shape: tuple[int, ...]
    limit: int = 0


def normal(*shape: int, fan_in: int) -> Param:
    """A weight whose `fan_in`-long sums keep the variance of their input."""
    return Param(shape, std=1.0 / math.sqrt(fan_in))


def embedding(vocabulary: int, hidden: int) -> Param:
    """A table of vectors, as small as GPT-2's: a tied output layer starts close to the uniform distribution."""
    return Param((vocabulary, hidden), std=0.02)


def zeros(*shape: int) -> Param:
    """A bias."""
    return Param(shape)


def ones(*shape: int) -> Param:
    """The scale of a normalisation."""
    return Param(shape, mean=1.0)


def repeated(layer: Any, count: int, *, stacked: bool) -> Any:
    """`count` equal layers: a list of them, or one layer with a leading dimension `count` on every parameter."""
    if not stacked:
        return [layer] * count
    return jax.tree_util.tree_map(lambda p: Param((count, *p.shape), p.mean, p.std), layer)


def abstract_params(tree: Any) -> Any:
    """The same pytree with float32 `jax.ShapeDtypeStruct` leaves; allocates nothing."""
    return jax.tree_util.tree_map(lambda p: jax.ShapeDtypeStruct(p.shape, jnp.float32), tree)


def draw_params(tree: Any, seed: int) -> Any:
    """The same pytree with float32 arrays; equal seeds give equal numbers."""
    leaves, structure = jax.tree_util.tree_flatten(tree)
    return structure.unflatten([_draw(p, np.random.default_rng([seed, n])) for n, p in enumerate(leaves)])


def abstract_batch(fields: dict[str, Field], batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The batch with `jax.ShapeDtypeStruct` leaves of shape `(batch_size, *field.shape)`, int32 or float32."""
    return {name: jax.ShapeDtypeStruct((batch_size, *f.shape), jnp.int32 if f.limit else jnp.float32)
            for name, f in fields.items()}


def draw_batch(fields: dict[str, Field], batch_size: int, seed: int) -> dict[str, jax.Array]:
    """The batch with random arrays in each field's range; equal seeds give equal numbers."""
    rng = np.random.default_rng(seed)
    batch = {}
    for name, f in sorted(fields.items()):
        shape = (batch_size, *f.shape)
        batch[name] = jnp.asarray(rng.integers(0, f.limit, shape, dtype=np.int32) if f.limit
                                  else rng.standard_normal(shape, dtype=np.float32))
    return batch


def parameter_count(tree: Any) -> int:
    """Number of parameters in a pytree of `Param`s, arrays or abstract arrays."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree_util.tree_leaves(tree))


def _draw(param: Param, rng: np.random.Generator) -> jax.Array:
    if not param.std:
        return jnp.asarray(np.full(param.shape, param.mean, np.float32))
    return jnp.asarray(np.float32(param.mean) + np.float32(param.std) * rng.standard_normal(param.shape, np.float32))
