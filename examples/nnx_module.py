"""Plan and train a Flax NNX module. Batch statistics and dropout keys are carried along as the model's state."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import planner
from planner.adapters import from_nnx, nnx_module

BATCH, PIXELS, CLASSES = 64, 256, 16


class Classifier(nnx.Module):
    """Residual layers with batch norm and dropout."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.blocks = nnx.List([nnx.Linear(PIXELS, PIXELS, rngs=rngs) for _ in range(4)])
        self.norms = nnx.List([nnx.BatchNorm(PIXELS, rngs=rngs) for _ in range(4)])
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(PIXELS, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for block, norm in zip(self.blocks, self.norms, strict=True):
            x = x + self.dropout(nnx.relu(norm(block(x))))
        return self.head(x)


def loss_fn(module: Any, batch: Any) -> jax.Array:
    logits = module(batch["x"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()


def main() -> None:
    jax.config.update("jax_num_cpu_devices", 8)  # eight virtual devices; leave it out on a machine that has its own
    mesh = jax.make_mesh((8,), ("d",))
    x = jax.random.normal(jax.random.key(1), (BATCH, PIXELS))
    batch = {"x": x, "label": jnp.argmax(x[:, :CLASSES], axis=1)}

    module = Classifier(nnx.Rngs(0))
    model = from_nnx(module, loss_fn, batch, optax.adam(1e-3))
    plan = planner.plan(model, mesh)
    print(plan)

    step, state = plan.compile(model, mesh)
    for n in range(5):
        state, metrics = step(state, batch)
        print(f"step {n}: loss {float(metrics['loss']):.4f}")

    params, carried = jax.device_get((state.params, state.state))  # stages may lie on different devices
    trained = nnx_module(module, params, carried)  # an NNX module again
    trained.eval()
    accuracy = jnp.mean(jnp.argmax(trained(x), axis=1) == batch["label"])
    print(f"accuracy on the batch: {float(accuracy):.0%}")


if __name__ == "__main__":
    main()
