"""Plan and train a plain loss function: a pytree of parameters, a batch, an optax optimizer. Runs on a laptop."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import planner

HIDDEN, LAYERS, BATCH = 256, 8, 64


def loss_fn(params: Any, batch: Any) -> jax.Array:
    x = batch["x"]
    for layer in params:
        x = x + jax.nn.gelu(x @ layer["up"]) @ layer["down"]
    return jnp.mean((x - batch["y"]) ** 2)


def init(key: jax.Array) -> list[dict[str, jax.Array]]:
    keys = jax.random.split(key, 2 * LAYERS)
    return [{"up": 0.05 * jax.random.normal(keys[2 * n], (HIDDEN, 4 * HIDDEN)),
             "down": 0.02 * jax.random.normal(keys[2 * n + 1], (4 * HIDDEN, HIDDEN))} for n in range(LAYERS)]


def main() -> None:
    jax.config.update("jax_num_cpu_devices", 8)  # eight virtual devices; leave it out on a machine that has its own
    mesh = jax.make_mesh((8,), ("d",))
    x = jax.random.normal(jax.random.key(1), (BATCH, HIDDEN))
    batch = {"x": x, "y": jnp.roll(x, 1, axis=1)}

    model = planner.Model(loss_fn, init(jax.random.key(0)), batch, optimizer=optax.adam(1e-3), name="residual MLP")
    plan = planner.plan(model, mesh)
    print(plan)

    step, state = plan.compile(model, mesh)
    for n in range(5):
        state, metrics = step(state, batch)
        print(f"step {n}: loss {float(metrics['loss']):.4f}")


if __name__ == "__main__":
    main()
