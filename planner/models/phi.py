"""Phi-3: a Llama whose query, key and value are one weight, and whose gate and up are one.

Source: Abdin et al. 2024 (arXiv:2404.14219) and its released weights (`qkv_proj`, `gate_up_proj`).

Shapes beside those of `layers`: n key/value heads, r query heads per key/value head.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from planner.models.declare import embedding, normal, ones, repeated
from planner.models.language import language_model
from planner.models.layers import causal_mask, rms_norm
from planner.models.llama import rotate
from planner.models.table import Network, register


@dataclass(frozen=True)
class PhiConfig:
    """Sizes of a Phi-3."""

    sequence: int
    hidden: int
    heads: int
    key_value_heads: int
    inner: int
    layers: int
    vocabulary: int = 32_064
    rope_base: float = 10_000.0
    dtype: str = "bfloat16"
    scan_layers: bool = False


def phi(c: PhiConfig) -> Network:
    """Batch: `tokens` and `labels` `[b, s]`. Outputs: logits `[b, s, v]`."""
    d, k = c.hidden, c.hidden // c.heads
    layer = {"norm1": ones(d), "qkv": normal(d, (c.heads + 2 * c.key_value_heads) * k, fan_in=d),
             "out": normal(d, d, fan_in=d), "norm2": ones(d), "gate_up": normal(d, 2 * c.inner, fan_in=d),
             "down": normal(c.inner, d, fan_in=c.inner)}
    params = {"embedding": embedding(c.vocabulary, d), "norm": ones(d), "unembedding": embedding(c.vocabulary, d),
              "layers": repeated(layer, c.layers, stacked=c.scan_layers)}
    return language_model(c, params, lambda layer, x: phi_layer(layer, x, c), rms_norm)


def phi_layer(params: Any, x: jax.Array, c: PhiConfig) -> jax.Array:
    """One decoder layer, `[b, s, d]` to the same."""
    x = x + fused_attention(params, rms_norm(params["norm1"], x), c)
    gate, up = jnp.split(rms_norm(params["norm2"], x) @ params["gate_up"], 2, axis=-1)
    return x + (jax.nn.silu(gate) * up) @ params["down"]


def fused_attention(params: Any, x: jax.Array, c: PhiConfig) -> jax.Array:
    """Causal attention whose query heads share key/value heads in groups, `[b, s, d]` to the same."""
    (b, s, d), n, k = x.shape, c.key_value_heads, c.hidden // c.heads
    q, key, v = jnp.split(x @ params["qkv"], (d, d + n * k), axis=-1)
    q = rotate(q.reshape(b, s, n, c.heads // n, k), c.rope_base)
    key, v = rotate(key.reshape(b, s, n, k), c.rope_base), v.reshape(b, s, n, k)
    scores = jnp.einsum("bsnrk,btnk->bnrst", q, key).astype(jnp.float32) * (k ** -0.5)
    weights = jax.nn.softmax(causal_mask(scores), axis=-1).astype(x.dtype)
    return jnp.einsum("bnrst,btnk->bsnrk", weights, v).reshape(b, s, d) @ params["out"]


register("phi3-tiny", PhiConfig(32, 64, 16, 8, 128, 4, 256), phi)
register("phi3-mini", PhiConfig(4096, 3072, 32, 32, 8192, 32), phi)
register("phi3-medium", PhiConfig(4096, 5120, 40, 10, 17_920, 40), phi)
