"""Small losses that between them use every construct the tracer must differentiate: name -> case."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Case(NamedTuple):
    """As in `planner.Model`: `state` is None for `fn(params, batch)`."""

    fn: Callable[..., Any]
    params: Any
    batch: Any
    state: Any = None


CASES: dict[str, Callable[[], Case]] = {}


def case(make: Callable[[], Case]) -> Callable[[], Case]:
    CASES[make.__name__] = make
    return make


def normal(seed: int, *shape: int, scale: float = 0.5) -> Any:
    """Reproducible numbers, in the widest enabled floating type."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * scale, jnp.result_type(float))


def tokens(seed: int, *shape: int, below: int = 11) -> Any:
    return jnp.asarray(np.random.default_rng(seed).integers(0, below, size=shape), jnp.int32)


def squared(prediction: Any, wanted: Any) -> Any:
    return jnp.mean((prediction - wanted) ** 2)


def layer_norm(x: Any) -> Any:
    return (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)


def attention(p: Any, x: Any) -> Any:
    q, k, v = (jnp.einsum("bsd,dhk->bshk", layer_norm(x), p[n]) for n in "qkv")
    scores = jnp.einsum("bshk,bthk->bhst", q, k) / 2.0
    mask = jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool))
    weights = jax.nn.softmax(jnp.where(mask, scores, -1e9))
    return x + jnp.einsum("bhst,bthk,hkd->bsd", weights, v, p["o"])


def block(p: Any, x: Any) -> Any:
    x = attention(p, x)
    return x + jax.nn.gelu(layer_norm(x) @ p["w1"] + p["b1"]) @ p["w2"]


def block_params(layers: int, width: int = 8, heads: int = 2) -> Any:
    shapes = {**dict.fromkeys("qkv", (width, heads, width // heads)), "o": (heads, width // heads, width),
              "w1": (width, 2 * width), "b1": (2 * width,), "w2": (2 * width, width)}
    return {n: normal(i, layers, *s) for i, (n, s) in enumerate(shapes.items())}


@case
def mlp() -> Case:
    def loss(params: Any, batch: Any) -> Any:
        x = batch["x"]
        for w, b in params:
            x = jnp.tanh(x @ w + b)
        return squared(x, batch["y"]), {"size": jnp.abs(x).max()}
    return Case(loss, [(normal(0, 3, 5), normal(1, 5)), (normal(2, 5, 2), normal(3, 2))],
                {"x": normal(4, 4, 3), "y": normal(5, 4, 2)})


@case
def scanned_transformer() -> Case:
    def loss(params: Any, batch: Any) -> Any:
        x = params["embedding"][batch["x"]]
        x, norms = lax.scan(lambda x, p: (block(p, x), jnp.abs(x).mean()), x, params["layers"])
        logits = x @ params["embedding"].T
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["y"][..., None], -1)
        return -picked.mean() + 0.1 * norms.sum()
    return Case(loss, {"embedding": normal(9, 11, 8), "layers": block_params(2)},
                {"x": tokens(0, 2, 6), "y": tokens(1, 2, 6)})


@case
def mixed_precision_scan() -> Case:
    """Master weights cast to bf16 outside the loop."""
    def loss(params: Any, batch: Any) -> Any:
        low = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
        x, _ = lax.scan(lambda x, p: (block(p, x), None), batch["x"].astype(jnp.bfloat16), low)
        return squared(x.astype(jnp.float32), batch["y"].astype(jnp.float32))
    return Case(loss, block_params(2), {"x": normal(10, 2, 4, 8), "y": normal(11, 2, 4, 8)})


@jax.custom_vjp
def halved_gradient(x: Any) -> Any:
    """The identity, whose result is its operand; half of the gradient goes back."""
    return x


halved_gradient.defvjp(lambda x: (x, None), lambda _, g: (g / 2,))


@jax.custom_vjp
def projected(w: Any, x: Any) -> Any:
    """Keeps a dot as residual that its result does not need."""
    return jnp.sin(x @ w)


projected.defvjp(lambda w, x: (jnp.sin(x @ w), (w, x, jnp.cos(x @ w))),
                 lambda res, g: ((res[1].T @ (g * res[2])), (g * res[2]) @ res[0].T))


@case
def custom_rules() -> Case:
    def loss(params: Any, batch: Any) -> Any:
        x = jax.nn.relu(batch @ params["a"])
        x = halved_gradient(x) + halved_gradient(params["b"])
        x = projected(params["c"], x)
        x = jax.nn.gelu(x, approximate=False) + jax.nn.silu(x)
        return jax.nn.logsumexp(x) + jnp.logaddexp(x, 0.3).sum() + lax.stop_gradient(x).sum() * x.mean()
    return Case(loss, {"a": normal(0, 3, 4), "b": normal(1, 4), "c": normal(2, 4, 5)}, normal(3, 6, 3))


@case
def rematerialised() -> Case:
    def loss(params: Any, batch: Any) -> Any:
        x = jax.checkpoint(block)(jax.tree.map(lambda p: p[0], params), batch)
        saved = jax.checkpoint(block, policy=jax.checkpoint_policies.dots_saveable)
        return jnp.mean(saved(jax.tree.map(lambda p: p[1], params), x) ** 2)
    return Case(loss, block_params(2), normal(3, 2, 4, 8))


@case
def rematerialised_scan() -> Case:
    def loss(params: Any, batch: Any) -> Any:
        x, _ = lax.scan(jax.checkpoint(lambda x, p: (block(p, x), None)), batch, params)
        return jnp.mean(x ** 2)
    return Case(loss, block_params(2), normal(3, 2, 4, 8))


@case
def batch_statistics() -> Case:
    def loss(params: Any, state: Any, batch: Any) -> Any:
        x = lax.conv_general_dilated(batch["x"], params["kernel"], (2, 2), "SAME",
                                     dimension_numbers=("NHWC", "HWIO", "NHWC"))
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        new = jax.tree.map(lambda old, now: 0.9 * old + 0.1 * lax.stop_gradient(now), state, {"mean": mean, "var": var})
        x = jax.nn.relu((x - mean) * lax.rsqrt(var + 1e-5) * params["scale"])
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return squared(x.mean((1, 2)), batch["y"]), new, {"largest": x.max()}
    return Case(loss, {"kernel": normal(0, 3, 3, 2, 4), "scale": normal(1, 4)},
                {"x": normal(2, 2, 8, 8, 2), "y": normal(3, 2, 4)}, {"mean": normal(4, 4), "var": normal(5, 4) ** 2})


@case
def expert_dispatch() -> Case:
    def loss(params: Any, batch: Any) -> Any:
        gates, chosen = lax.top_k(jax.nn.softmax(batch @ params["router"]), 2)
        one_hot = jax.nn.one_hot(chosen, 4, dtype=batch.dtype)
        place = jnp.cumsum(one_hot.reshape(-1, 4), 0).reshape(one_hot.shape) * one_hot
        slot = jax.nn.one_hot(place.astype(jnp.int32) - 1, 3, dtype=batch.dtype)
        dispatch = jnp.einsum("tke,tkec->tec", one_hot, slot)
        combine = jnp.einsum("tk,tke->te", gates, one_hot)[..., None] * dispatch
        hidden = jax.nn.relu(jnp.einsum("tec,td,edf->ecf", dispatch, batch, params["up"]))
        return jnp.mean(jnp.einsum("tec,ecf,efd->td", combine, hidden, params["down"]) ** 2)
    params = {"router": normal(0, 3, 4), "up": normal(1, 4, 3, 5), "down": normal(2, 4, 5, 3)}
    return Case(loss, params, normal(3, 8, 3))


@case
def lstm() -> Case:
    def loss(params: Any, batch: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            h, c = carry
            i, f, g, o = jnp.split(x @ params["w"] + h @ params["u"] + params["b"], 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h
        zero = jnp.zeros((batch.shape[0], 4), batch.dtype)
        _, hs = lax.scan(step, (zero, zero), batch.transpose(1, 0, 2))
        return jnp.mean(hs ** 2)
    return Case(loss, {"w": normal(0, 3, 16), "u": normal(1, 4, 16), "b": normal(2, 16)}, normal(3, 2, 5, 3))


@case
def control_flow() -> Case:
    def loss(params: Any, batch: Any) -> Any:
        steps = lax.while_loop(lambda n: n * n < 30, lambda n: n + 1, jnp.sum(batch > 0) * 0)
        x = lax.cond(batch.sum() > 1e3, jnp.sin, lambda v: v * params["a"], batch @ params["w"])
        x = lax.switch(steps % 3, [jnp.tanh, jnp.cos, lambda v: v ** 3], x)
        x = lax.fori_loop(0, 3, lambda n, v: v * params["a"] + n, x)
        return x.mean() + steps
    return Case(loss, {"w": normal(0, 3, 3), "a": normal(1)}, normal(2, 4, 3))


@case
def dropout() -> Case:
    def loss(params: Any, state: Any, batch: Any) -> Any:
        key, mine = jax.random.split(state["key"])
        raw = jax.random.fold_in(state["raw"], state["step"])
        x = batch @ params
        x = jnp.where(jax.random.bernoulli(mine, 0.8, x.shape), x / 0.8, 0)
        x = x + 0.1 * jax.random.normal(raw, x.shape, x.dtype)
        return jnp.mean(x ** 2), {"key": key, "raw": raw, "step": state["step"] + 1}
    return Case(loss, normal(0, 3, 4), normal(1, 5, 3),
                {"key": jax.random.key(1), "raw": jax.random.PRNGKey(2), "step": jnp.int32(3)})


@case
def sorting() -> Case:
    def loss(params: Any, batch: Any) -> Any:
        x = jnp.cumsum(jnp.sort(batch @ params["w"], axis=-1), axis=-1)
        x = jnp.concatenate([x, jnp.pad(x, ((0, 0), (1, 2)))], -1)
        x = x.at[:, params["w"].shape[0]].add(params["v"]) + lax.dynamic_slice_in_dim(x, batch.shape[0] - 3, 1, 1)
        return jnp.median(x) + jnp.max(x) + jnp.prod(x[0, :2]) + jnp.mean(jnp.flip(x, 1) * jnp.arange(x.shape[1]))
    return Case(loss, {"w": normal(0, 3, 4), "v": normal(1)}, normal(2, 4, 3))


@case
def unused_and_twice() -> Case:
    """A parameter the loss does not need, one it reads twice in one operator, and an integer path in between."""
    def loss(params: Any, batch: Any) -> Any:
        lost = lax.stop_gradient(params["a"] * 3).sum() + jnp.argmax(params["unused"])
        return jnp.sum(params["a"] * params["a"]) * batch.mean() + lost + jnp.round(params["a"]).sum()
    return Case(loss, {"a": normal(0, 3), "unused": normal(1, 2, 2), "never": normal(2, 2)}, normal(3, 4))


@case
def loss_is_a_parameter() -> Case:
    return Case(lambda params, batch: params["w"], {"w": normal(0), "v": normal(1, 2)}, normal(2, 4))


nested = partial(jax.jit, static_argnames="times")


@case
def nested_calls() -> Case:
    @nested
    def repeated(w: Any, x: Any, times: int) -> Any:
        for _ in range(times):
            x = jax.jit(jnp.dot)(x, w)
        return x
    return Case(lambda params, batch: jnp.mean(jax.vmap(lambda x: repeated(params, x, times=2))(batch) ** 2),
                normal(0, 3, 3), normal(1, 4, 3))
