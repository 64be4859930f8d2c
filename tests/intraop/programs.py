"""Small traced programs that the planning tests share."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from planner.core.graph import Program
from planner.core.hardware import Cluster, LogicalMesh, Submesh
from planner.costs.topology import logical_mesh
from planner.model import Model, train_step
from planner.profiles import cluster
from planner.trace import trace_program


def plain(machine: Cluster) -> Cluster:
    """The machine as rates and rings alone, so that what these tests count does not hang on tiles and protocols."""
    links = {name: dataclasses.replace(getattr(machine, name), protocols=()) for name in ("intra_node", "inter_node")}
    return dataclasses.replace(machine, device=dataclasses.replace(machine.device, tiling=None, caches=()), **links)


DGX = plain(cluster("dgx-a100", nodes=1))


def struct(*shape: int, dtype: object = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def mlp(layers: int = 2, width: int = 256, batch: int = 64) -> Model:
    def loss(params, batch):
        x = batch["x"]
        for w in params:
            x = jax.nn.relu(x @ w)
        return jnp.mean((x - batch["y"]) ** 2)

    params = [struct(width, width) for _ in range(layers)]
    return Model(loss, params, {"x": struct(batch, width), "y": struct(batch, width)}, optax.adam(1e-3), name="mlp")


def mlp_step(layers: int = 2, width: int = 256, batch: int = 64) -> Model:
    inner = mlp(layers, width, batch)
    optimizer = optax.adam(1e-3)

    def step(state, batch):
        params, opt = state
        loss, grads = jax.value_and_grad(inner.fn)(params, batch)
        updates, opt = optimizer.update(grads, opt, params)
        return (optax.apply_updates(params, updates), opt), {"loss": loss}

    return train_step(step, (inner.params, jax.eval_shape(optimizer.init, inner.params)), inner.batch)


def transformer(layers: int = 3, width: int = 64, heads: int = 8, sequence: int = 32, vocabulary: int = 256,
                batch: int = 16) -> Model:
    def norm(x):
        return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)

    def block(p, x):
        h = norm(x)
        q, k, v = (jnp.einsum("bsd,dhk->bshk", h, p[n]) for n in ("q", "k", "v"))
        scores = jnp.einsum("bqhk,bshk->bhqs", q, k) / 8
        scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -1e9)
        mixed = jnp.einsum("bhqs,bshk->bqhk", jax.nn.softmax(scores, -1), v)
        x = x + jnp.einsum("bqhk,hkd->bqd", mixed, p["o"])
        return x + jax.nn.gelu(norm(x) @ p["up"]) @ p["down"]

    def loss(params, batch):
        x = params["embed"][batch["x"]]
        for p in params["blocks"]:
            x = block(p, x)
        logits = jax.nn.log_softmax(x @ params["head"])
        return -jnp.take_along_axis(logits, batch["y"][..., None], -1).mean()

    head = width // heads
    one = {"q": struct(width, heads, head), "k": struct(width, heads, head), "v": struct(width, heads, head),
           "o": struct(heads, head, width), "up": struct(width, 4 * width), "down": struct(4 * width, width)}
    params = {"embed": struct(vocabulary, width), "blocks": [one] * layers, "head": struct(width, vocabulary)}
    tokens = struct(batch, sequence, dtype=jnp.int32)
    return Model(loss, params, {"x": tokens, "y": tokens}, optax.adamw(1e-3), name="transformer")


def program(model: Model, microbatches: int = 1) -> Program:
    return trace_program(model, microbatches)


def mesh(*shape: int) -> LogicalMesh:
    count = 1
    for n in shape:
        count *= n
    return logical_mesh(DGX, Submesh(1, count), shape)
