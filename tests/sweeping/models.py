"""A model that other processes can make by its name."""

import os

import jax
import jax.numpy as jnp
import optax

from planner.model import Model


def ends(batch_size: int) -> Model:
    """The same; a process that is to make it with a batch of 32 is gone, as if memory had run out."""
    if batch_size == 32:
        os._exit(9)
    return small(batch_size)


def small(batch_size: int) -> Model:
    """Two matrices."""
    def loss(params, batch):
        return jnp.mean((jnp.tanh(batch["x"] @ params["w"]) @ params["v"]) ** 2)

    params = {"w": jax.ShapeDtypeStruct((32, 64), jnp.float32), "v": jax.ShapeDtypeStruct((64, 16), jnp.float32)}
    return Model(loss, params, {"x": jax.ShapeDtypeStruct((batch_size, 32), jnp.float32)}, optimizer=optax.sgd(1e-2),
                 name="small")
