"""Small models for tests of running: each computes something whose sharding or threading is easy to get wrong."""

import jax
import jax.numpy as jnp
import optax

from planner.model import Model

BATCH, WIDTH = 16, 8


def _keys(n: int) -> list[jax.Array]:
    return list(jax.random.split(jax.random.key(0), n))


def mlp(optimizer=None, layers: int = 4) -> Model:
    params = {f"layer{n}": {"w": jax.random.normal(k, (WIDTH, WIDTH)) * 0.4, "b": jnp.zeros(WIDTH)}
              for n, k in enumerate(_keys(layers))}

    def loss(params, batch):
        x = batch["x"]
        for n in range(layers):
            x = jnp.tanh(x @ params[f"layer{n}"]["w"] + params[f"layer{n}"]["b"])
        return jnp.mean((x - batch["y"]) ** 2), {"mean": jnp.mean(x), "out": x}

    batch = {"x": jax.random.normal(_keys(2)[1], (BATCH, WIDTH)), "y": jnp.ones((BATCH, WIDTH))}
    return Model(loss, params, batch, optimizer or optax.adamw(1e-2), name="mlp")
