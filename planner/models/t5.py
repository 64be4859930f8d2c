"""T5: an encoder and a decoder with cross attention, relative position biases, RMS norm, no biases, tied embeddings.

Source: Raffel et al. 2020; the sizes are those of its released checkpoints (version 1.0).
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from planner.models.declare import Field, embedding, normal, ones, repeated
from planner.models.layers import attention, attention_params, cast, cross_entropy, rms_norm, run_layers
from planner.models.table import Network, register

BUCKETS, FARTHEST = 32, 128  # relative positions are told apart in 32 buckets, up to a distance of 128


@dataclass(frozen=True)
class T5Config:
    """Sizes of a T5; `layers` is that of the encoder and that of the decoder."""

    sequence: int
    target: int
    hidden: int
    inner: int
    layers: int
    heads: int
    head_size: int
    vocabulary: int = 32_128
    dtype: str = "bfloat16"
    scan_layers: bool = False


def t5(c: T5Config) -> Network:
    """Batch: `source` `[b, t]`, `tokens` and `labels` `[b, s]` of the decoder. Outputs: logits `[b, s, v]`."""
    heads = attention_params(c.hidden, c.heads, c.head_size)
    feed = {"up": normal(c.hidden, c.inner, fan_in=c.hidden), "down": normal(c.inner, c.hidden, fan_in=c.inner)}
    encoder = {"norm1": ones(c.hidden), "attention": heads, "norm2": ones(c.hidden), "feed": feed}
    decoder = encoder | {"norm3": ones(c.hidden), "cross": heads}
    params = {"embedding": embedding(c.vocabulary, c.hidden),
              **{side: {"layers": repeated(layer, c.layers, stacked=c.scan_layers), "norm": ones(c.hidden),
                        "positions": embedding(BUCKETS, c.heads)}
                 for side, layer in (("encoder", encoder), ("decoder", decoder))}}

    def forward(params: Any, batch: Any) -> jax.Array:
        params = cast(params, c.dtype)
        source, target = params["embedding"][batch["source"]], params["embedding"][batch["tokens"]]
        source = _encode(params["encoder"], source)
        return jnp.einsum("bsd,vd->bsv", _decode(params["decoder"], target, source), params["embedding"]) \
            * c.hidden**-0.5

    def loss(params: Any, batch: Any) -> jax.Array:
        return cross_entropy(forward(params, batch), batch["labels"])

    tokens = Field((c.target,), limit=c.vocabulary)
    fields = {"source": Field((c.sequence,), limit=c.vocabulary), "tokens": tokens, "labels": tokens}
    return Network(params, fields, loss, forward)


def position_bias(table: jax.Array, size: int, *, causal: bool) -> jax.Array:
    """Bias `[h, size, size]` from a table `[buckets, h]`: near positions have a bucket each, far ones share by log."""
    distance = jnp.arange(size)[None, :] - jnp.arange(size)[:, None]
    buckets, start = BUCKETS, jnp.zeros_like(distance)
    if causal:
        distance = jnp.maximum(-distance, 0)
    else:
        buckets //= 2
        start, distance = jnp.where(distance > 0, buckets, 0), jnp.abs(distance)
    near = buckets // 2
    far = jnp.log(jnp.maximum(distance, 1) / near) / math.log(FARTHEST / near) * (buckets - near)
    far = jnp.minimum(near + far.astype(jnp.int32), buckets - 1)
    return table[start + jnp.where(distance < near, distance, far)].transpose(2, 0, 1)


def _encode(params: Any, x: jax.Array) -> jax.Array:
    bias = position_bias(params["positions"], x.shape[1], causal=False)

    def layer(weights: Any, x: jax.Array) -> jax.Array:
        x = x + attention(weights["attention"], rms_norm(weights["norm1"], x), bias=bias, scaled=False)
        return x + _feed_forward(weights["feed"], rms_norm(weights["norm2"], x))

    return rms_norm(params["norm"], run_layers(layer, params["layers"], x))


def _decode(params: Any, x: jax.Array, source: jax.Array) -> jax.Array:
    bias = position_bias(params["positions"], x.shape[1], causal=True)

    def layer(weights: Any, x: jax.Array) -> jax.Array:
        x = x + attention(weights["attention"], rms_norm(weights["norm1"], x), bias=bias, causal=True, scaled=False)
        x = x + attention(weights["cross"], rms_norm(weights["norm3"], x), source=source, scaled=False)
        return x + _feed_forward(weights["feed"], rms_norm(weights["norm2"], x))

    return rms_norm(params["norm"], run_layers(layer, params["layers"], x))


def _feed_forward(params: Any, x: jax.Array) -> jax.Array:
    return jnp.einsum("bsf,fd->bsd", jax.nn.relu(jnp.einsum("bsd,df->bsf", x, params["up"])), params["down"])


register("t5-tiny", T5Config(32, 16, 64, 128, 2, 8, 8, vocabulary=256), t5)
register("t5-small", T5Config(512, 512, 512, 2048, 6, 8, 64), t5)
register("t5-base", T5Config(512, 512, 768, 3072, 12, 12, 64), t5)
register("t5-large", T5Config(512, 512, 1024, 4096, 24, 16, 64), t5)
register("t5-3b", T5Config(512, 512, 1024, 16_384, 24, 32, 128), t5)
register("t5-11b", T5Config(512, 512, 1024, 65_536, 24, 128, 128), t5)
