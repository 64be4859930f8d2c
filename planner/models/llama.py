"""Llama and Mixtral: RMS norm, rotary positions, grouped-query attention, SwiGLU; Mixtral's is a mixture of experts.

Sources: Grattafiori et al. 2024 (Llama 3; 1B is Llama 3.2's), Jiang et al. 2024 (Mixtral 8x7B). Mixtral's experts get
GShard's capacity, without which the shapes of their work would depend on the data.

Shapes beside those of `layers`: n key/value heads, r query heads per key/value head.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from planner.models.declare import Param, embedding, normal, ones, repeated
from planner.models.gating import mixture
from planner.models.language import Balance, language_model
from planner.models.layers import causal_mask, rms_norm
from planner.models.table import Network, register


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a Llama; a Mixtral if `experts` isn't 0. `tied` shares the embedding with the output layer."""

    sequence: int
    hidden: int
    heads: int
    key_value_heads: int
    inner: int
    layers: int
    vocabulary: int
    tied: bool = False
    rope_base: float = 500_000.0
    experts: int = 0
    group: int = 2048
    capacity_factor: float = 1.25
    balance_weight: float = 0.02  # Mixtral's published configuration
    dtype: str = "bfloat16"
    scan_layers: bool = False


def llama(c: LlamaConfig) -> Network:
    """Batch: `tokens` and `labels` `[b, s]`. Outputs: logits `[b, s, v]`."""
    params = {"embedding": embedding(c.vocabulary, c.hidden), "norm": ones(c.hidden),
              "layers": repeated(_layer_params(c), c.layers, stacked=c.scan_layers)}
    if not c.tied:
        params["unembedding"] = embedding(c.vocabulary, c.hidden)
    if not c.experts:
        return language_model(c, params, lambda layer, x: _layer(layer, x, c), rms_norm)
    return language_model(c, params, lambda layer, carry: _sparse_layer(layer, carry, c), rms_norm,
                          balance=Balance(c.balance_weight, c.layers))


def rotate(x: jax.Array, base: float) -> jax.Array:
    """Rotary positions: turn pairs (i, i + k/2) of `x` `[b, s, ..., k]` by `s * base**(-2i/k)` radians."""
    half = x.shape[-1] // 2
    angles = jnp.arange(x.shape[1], dtype=jnp.float32)[:, None] * base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = angles.reshape(x.shape[1], *(1,) * (x.ndim - 3), half)
    left, right = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1).astype(x.dtype)


def grouped_attention(params: Any, x: jax.Array, rope_base: float) -> jax.Array:
    """Causal attention whose query heads share key/value heads in groups, `[b, s, d]` to the same."""
    q = rotate(jnp.einsum("bsd,dnrk->bsnrk", x, params["query"]), rope_base)
    k = rotate(jnp.einsum("btd,dnk->btnk", x, params["key"]), rope_base)
    v = jnp.einsum("btd,dnk->btnk", x, params["value"])
    scores = jnp.einsum("bsnrk,btnk->bnrst", q, k).astype(jnp.float32) * (q.shape[-1] ** -0.5)
    weights = jax.nn.softmax(causal_mask(scores), axis=-1).astype(x.dtype)
    return jnp.einsum("bsnrk,nrkd->bsd", jnp.einsum("bnrst,btnk->bsnrk", weights, v), params["out"])


def _layer_params(c: LlamaConfig) -> dict[str, Any]:
    d, n, k = c.hidden, c.key_value_heads, c.hidden // c.heads
    r = c.heads // n
    heads: dict[str, Param] = {"query": normal(d, n, r, k, fan_in=d), "key": normal(d, n, k, fan_in=d),
                               "value": normal(d, n, k, fan_in=d), "out": normal(n, r, k, d, fan_in=d)}
    e = (c.experts,) if c.experts else ()
    feed = {"gate": normal(*e, d, c.inner, fan_in=d), "up": normal(*e, d, c.inner, fan_in=d),
            "down": normal(*e, c.inner, d, fan_in=c.inner)}
    if c.experts:
        feed["router"] = normal(d, c.experts, fan_in=d)
    return {"norm1": ones(d), "attention": heads, "norm2": ones(d), "feed": feed}


def _layer(params: Any, x: jax.Array, c: LlamaConfig) -> jax.Array:
    x = x + grouped_attention(params["attention"], rms_norm(params["norm1"], x), c.rope_base)
    feed, y = params["feed"], rms_norm(params["norm2"], x)
    inner = jax.nn.silu(jnp.einsum("bsd,df->bsf", y, feed["gate"])) * jnp.einsum("bsd,df->bsf", y, feed["up"])
    return x + jnp.einsum("bsf,fd->bsd", inner, feed["down"])


def _sparse_layer(params: Any, carry: tuple[jax.Array, jax.Array], c: LlamaConfig) -> tuple[jax.Array, jax.Array]:
    x, imbalance = carry
    x = x + grouped_attention(params["attention"], rms_norm(params["norm1"], x), c.rope_base)
    feed, y = params["feed"], rms_norm(params["norm2"], x)

    def experts(tokens: jax.Array) -> jax.Array:
        gate = jax.nn.silu(jnp.einsum("egcd,edf->egcf", tokens, feed["gate"]))
        return jnp.einsum("egcf,efd->egcd", gate * jnp.einsum("egcd,edf->egcf", tokens, feed["up"]), feed["down"])

    y, balance = mixture(y, feed["router"], experts, group=c.group, capacity_factor=c.capacity_factor)
    return x + y, imbalance + balance


register("llama-tiny", LlamaConfig(32, 64, 16, 8, 128, 4, 256), llama)
register("llama-1b", LlamaConfig(8192, 2048, 32, 8, 8192, 16, 128_256, tied=True), llama)
register("llama-8b", LlamaConfig(8192, 4096, 32, 8, 14_336, 32, 128_256), llama)
register("llama-70b", LlamaConfig(8192, 8192, 64, 8, 28_672, 80, 128_256), llama)
register("llama-405b", LlamaConfig(8192, 16_384, 128, 8, 53_248, 126, 128_256), llama)
register("mixtral-tiny", LlamaConfig(32, 64, 16, 8, 128, 4, 256, experts=8, group=32), llama)
register("mixtral-8x7b", LlamaConfig(8192, 4096, 32, 8, 14_336, 32, 32_000, rope_base=1e6, experts=8), llama)
