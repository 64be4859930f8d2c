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


def tied(optimizer=None) -> Model:
    """A language model in miniature: the embedding is also the output projection, so two stages read it."""
    vocabulary, length = 16, 4
    k = _keys(4)
    params = {"embed": jax.random.normal(k[0], (vocabulary, WIDTH)) * 0.5,
              "attention": {n: jax.random.normal(k[1 + i], (WIDTH, WIDTH)) * 0.3 for i, n in enumerate("qkv")},
              "scale": jnp.ones(WIDTH)}

    def loss(params, batch):
        x = params["embed"][batch["ids"]]
        q, key, v = (x @ params["attention"][n] for n in "qkv")
        weights = jax.nn.softmax(jnp.einsum("bsh,bth->bst", q, key) / WIDTH**0.5, axis=-1)
        x = x + jnp.einsum("bst,bth->bsh", weights, v)
        x = x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-5) * params["scale"]
        logits = jax.nn.log_softmax(x @ params["embed"].T)
        return -jnp.mean(jnp.take_along_axis(logits, batch["labels"][..., None], axis=-1))

    ids = jax.random.randint(k[0], (2, BATCH, length), 0, vocabulary)
    return Model(loss, params, {"ids": ids[0], "labels": ids[1]}, optimizer or optax.adam(1e-2), name="tied")


def stateful() -> Model:
    """Batch statistics, a dropout key and a step counter: state that must go from microbatch to microbatch in order."""
    k = _keys(2)
    params = {"w0": jax.random.normal(k[0], (WIDTH, WIDTH)) * 0.4, "w1": jax.random.normal(k[1], (WIDTH, WIDTH)) * 0.4}
    state = {"mean": jnp.zeros(WIDTH), "key": jax.random.key(3), "count": jnp.zeros((), jnp.int32)}

    def loss(params, state, batch):
        key, use = jax.random.split(state["key"])
        x = batch @ params["w0"]
        mean = x.mean(0)
        x = jax.nn.relu(x - mean) * jax.random.bernoulli(use, 0.8, x.shape)
        x = x @ params["w1"] - 0.1 * state["mean"]
        new = {"mean": 0.9 * state["mean"] + 0.1 * jax.lax.stop_gradient(mean), "key": key,
               "count": state["count"] + (x[0, 0] * 0).astype(jnp.int32) + 1}
        return jnp.mean(x**2), new, {"count": state["count"]}

    return Model(loss, params, jax.random.normal(k[0], (BATCH, WIDTH)), optax.sgd(0.1, momentum=0.9), state=state,
                 name="stateful")


def skipping(optimizer=None) -> Model:
    """The first activation is read again by the last layer, over the heads of the stages between."""
    params = [jax.random.normal(k, (WIDTH, WIDTH)) * 0.4 for k in _keys(4)]

    def loss(params, batch):
        first = x = jnp.tanh(batch @ params[0])
        for w in params[1:]:
            x = jnp.tanh(x @ w)
        return jnp.sum((x * first) ** 2)

    return Model(loss, params, jax.random.normal(_keys(1)[0], (BATCH, WIDTH)), optimizer or optax.adam(1e-2),
                 name="skipping",
                 loss_reduction="sum")


def stacked() -> Model:
    """Layers under `lax.scan` over stacked parameters: each row lives on its layer's stage. bf16 compute, f32
    weights."""
    params = {"layers": {"w": jax.random.normal(_keys(1)[0], (4, WIDTH, WIDTH)) * 0.4, "b": jnp.zeros((4, WIDTH))}}

    def loss(params, batch):
        def layer(x, p):
            return jnp.tanh(x @ p["w"].astype(jnp.bfloat16) + p["b"].astype(jnp.bfloat16)), None

        x, _ = jax.lax.scan(layer, batch.astype(jnp.bfloat16), params["layers"])
        return jnp.mean(x.astype(jnp.float32) ** 2)

    return Model(loss, params, jax.random.normal(_keys(1)[0], (BATCH, WIDTH)),
                 optax.chain(optax.clip_by_global_norm(0.05), optax.adamw(1e-2)), name="stacked")
