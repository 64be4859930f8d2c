"""Plan and train a Flax Linen module with dropout; batch statistics and the like would be carried too."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen

import planner
from planner.adapters import from_linen, linen_variables

BATCH, SEQUENCE, HIDDEN, VOCABULARY = 16, 32, 128, 256


class Tagger(linen.Module):
    """A small transformer encoder."""

    @linen.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = linen.Embed(VOCABULARY, HIDDEN)(tokens)
        for _ in range(2):
            x = x + linen.MultiHeadDotProductAttention(num_heads=8)(linen.LayerNorm()(x))
            y = linen.gelu(linen.Dense(4 * HIDDEN)(linen.LayerNorm()(x)))
            x = x + linen.Dropout(0.1, deterministic=False)(linen.Dense(HIDDEN)(y))
        return linen.Dense(VOCABULARY)(x)


def loss_fn(apply: Any, batch: Any) -> jax.Array:
    logits = apply(batch["tokens"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]).mean()


def main() -> None:
    jax.config.update("jax_num_cpu_devices", 8)  # eight virtual devices; leave it out on a machine that has its own
    mesh = jax.make_mesh((8,), ("d",))
    tokens = jax.random.randint(jax.random.key(1), (BATCH, SEQUENCE), 0, VOCABULARY)
    batch = {"tokens": tokens, "labels": (tokens + 1) % VOCABULARY}

    module, key = Tagger(), jax.random.key(0)
    variables = jax.jit(module.init)({"params": key, "dropout": key}, tokens)
    model = from_linen(module, variables, loss_fn, batch, optax.adam(1e-3), rngs={"dropout": jax.random.key(2)})
    plan = planner.plan(model, mesh)
    print(plan)

    step, state = plan.compile(model, mesh)
    for n in range(5):
        state, metrics = step(state, batch)
        print(f"step {n}: loss {float(metrics['loss']):.4f}")

    params, carried = jax.device_get((state.params, state.state))  # stages may lie on different devices
    outputs = module.apply(linen_variables(params, carried), tokens, rngs={"dropout": key})
    print(f"tokens tagged right: {float(jnp.mean(jnp.argmax(outputs, -1) == batch['labels'])):.0%}")


if __name__ == "__main__":
    main()
