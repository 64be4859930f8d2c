"""Plan and train an Equinox module. It is planned without its parameters, which come in when the plan runs."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import planner
from planner.adapters import equinox_module, from_equinox

BATCH, SIZE = 64, 256


def make() -> eqx.nn.MLP:
    return eqx.nn.MLP(SIZE, SIZE, width_size=512, depth=4, key=jax.random.key(0))


def loss_fn(module: Any, batch: Any) -> jax.Array:
    return jnp.mean((jax.vmap(module)(batch["x"]) - batch["y"]) ** 2)


def main() -> None:
    jax.config.update("jax_num_cpu_devices", 8)  # eight virtual devices; leave it out on a machine that has its own
    mesh = jax.make_mesh((8,), ("d",))
    x = jax.random.normal(jax.random.key(1), (BATCH, SIZE))
    batch = {"x": x, "y": jnp.cumsum(x, axis=1) / 16}

    abstract = from_equinox(eqx.filter_eval_shape(make), loss_fn, batch, optax.adam(1e-3))
    plan = planner.plan(abstract, mesh)
    print(plan)

    model = from_equinox(make(), loss_fn, batch, optax.adam(1e-3))
    step, state = plan.compile(model, mesh)
    for n in range(5):
        state, metrics = step(state, batch)
        print(f"step {n}: loss {float(metrics['loss']):.4f}")

    trained = equinox_module(make(), jax.device_get(state.params))  # an Equinox module again; stages lie apart
    print(f"loss of the trained module: {float(loss_fn(trained, batch)):.4f}")


if __name__ == "__main__":
    main()
