"""Models whose products can be paired otherwise: x·u·v with a wide middle, which nothing needs to make or to keep; and
one that broadcasts."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from planner.model import Model


def chained(batch: int = 16) -> Model:
    """Two independent places where products can be paired otherwise, one of which pays: x·u·v with a wide middle."""
    def loss(params: Any, batch: Any) -> jax.Array:
        narrow = (batch["x"] @ params["down"]) @ params["up"]
        wide = (jnp.tanh(narrow) @ params["out"]) @ params["back"]
        return jnp.mean(wide ** 2)

    sizes = {"down": (64, 8), "up": (8, 64), "out": (64, 1024), "back": (1024, 64)}
    params = {k: jax.ShapeDtypeStruct(shape, jnp.float32) for k, shape in sizes.items()}
    return Model(loss, params, {"x": jax.ShapeDtypeStruct((batch, 512, 64), jnp.float32)}, optax.sgd(0.1), name="chain")


def twice_wide(batch: int = 16) -> Model:
    """Two places, one after the other, both of which pay."""
    def loss(params: Any, batch: Any) -> jax.Array:
        x = batch["x"]
        for name in ("first", "second"):
            x = jnp.tanh(x @ params[name]["out"] @ params[name]["back"])
        return jnp.mean(x ** 2)

    params = {name: {"out": jax.ShapeDtypeStruct((32, wide), jnp.float32),
                     "back": jax.ShapeDtypeStruct((wide, 32), jnp.float32)}
              for name, wide in (("first", 512), ("second", 768))}
    return Model(loss, params, {"x": jax.ShapeDtypeStruct((batch, 256, 32), jnp.float32)}, optax.sgd(0.1),
                 name="twice wide")


def positions(batch: int = 16) -> Model:
    """A table that is broadcast over the batch, but for microbatches of one example."""
    def loss(params: Any, batch: Any) -> jax.Array:
        x = batch["x"] + params["positions"]
        return jnp.mean(jnp.tanh(x @ params["w"]) + x)

    shapes = {"positions": (32, 64), "w": (64, 64)}
    return Model(loss, {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in shapes.items()},
                 {"x": jax.ShapeDtypeStruct((batch, 32, 64), jnp.float32)}, optax.sgd(0.1), name="positions")
