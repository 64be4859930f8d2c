"""Plan and run a train step that is already written, with `jax.grad`, optax and metrics inside."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import planner

BATCH, SIZE = 64, 256


def loss_fn(params: Any, batch: Any) -> jax.Array:
    hidden = jax.nn.relu(batch["x"] @ params["first"])
    return jnp.mean((hidden @ params["second"] - batch["y"]) ** 2)


def main() -> None:
    jax.config.update("jax_num_cpu_devices", 8)  # eight virtual devices; leave it out on a machine that has its own
    mesh = jax.make_mesh((8,), ("d",))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(3e-3))

    def train_step(state: Any, batch: Any) -> tuple[Any, Any]:
        loss, grads = jax.value_and_grad(loss_fn)(state["params"], batch)
        updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
        state = {"params": optax.apply_updates(state["params"], updates), "opt_state": opt_state,
                 "step": state["step"] + 1}
        return state, {"loss": loss, "gradient norm": optax.global_norm(grads)}

    first, second, x = jax.random.split(jax.random.key(0), 3)
    params = {"first": 0.06 * jax.random.normal(first, (SIZE, 4 * SIZE)),
              "second": 0.03 * jax.random.normal(second, (4 * SIZE, SIZE))}
    state = {"params": params, "opt_state": optimizer.init(params), "step": jnp.zeros((), jnp.int32)}
    x = jax.random.normal(x, (BATCH, SIZE))
    batch = {"x": x, "y": jnp.roll(x, 1, axis=1)}

    model = planner.train_step(train_step, state, batch)
    plan = planner.plan(model, mesh)
    print(plan)

    step, state = plan.compile(model, mesh)
    for n in range(5):
        state, metrics = step(state, batch)
        print(f"step {n}: loss {float(metrics['loss']):.4f}, gradient norm {float(metrics['gradient norm']):.3f}")


if __name__ == "__main__":
    main()
