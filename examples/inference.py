"""Plan and run a function without gradients: the logits of a small GPT, batch after batch."""

import jax
import jax.numpy as jnp

import planner
from planner import models


def main() -> None:
    jax.config.update("jax_num_cpu_devices", 8)  # eight virtual devices; leave it out on a machine that has its own
    mesh = jax.make_mesh((8,), ("d",))

    zoo = models.build("gpt-tiny", batch_size=32, inference=True, dtype="float32")
    model = planner.Model(zoo.fn, models.init(zoo), zoo.batch, name="GPT, forward")  # no optimizer: inference
    plan = planner.plan(model, mesh)
    print(plan)

    run, state = plan.compile(model, mesh)
    for seed in range(3):
        batch = models.random_batch(zoo, seed)
        logits = run(state, batch)
        worst = jnp.max(jnp.abs(jax.device_get(logits) - model.fn(model.params, batch)))
        print(f"batch {seed}: logits {logits.shape}, largest difference from one device {float(worst):.1e}")


if __name__ == "__main__":
    main()
