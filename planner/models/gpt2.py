"""GPT-2 as its published checkpoints have it: one weight for query, key and value, whose result is cut in three.

Source: Radford et al. 2019 and its released weights (`c_attn`). `gpt.py` has a weight for each.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from planner.models.declare import embedding, normal, repeated, zeros
from planner.models.language import language_model
from planner.models.layers import causal_mask, layer_norm, layer_norm_params, mlp, mlp_params
from planner.models.table import Network, register


@dataclass(frozen=True)
class Gpt2Config:
    """Sizes of a GPT-2. The feed-forward size is `4 * hidden`."""

    sequence: int
    hidden: int
    layers: int
    heads: int
    vocabulary: int = 50_257
    dtype: str = "bfloat16"
    scan_layers: bool = False


def gpt2(c: Gpt2Config) -> Network:
    """Batch: `tokens` and `labels` `[b, s]`. Outputs: logits `[b, s, v]`."""
    d = c.hidden
    heads = {"qkv": normal(d, 3 * d, fan_in=d), "qkv_bias": zeros(3 * d), "out": normal(d, d, fan_in=d),
             "out_bias": zeros(d)}
    layer = {"norm1": layer_norm_params(d), "attention": heads, "norm2": layer_norm_params(d),
             "mlp": mlp_params(d, 4 * d)}
    params = {"embedding": embedding(c.vocabulary, d), "positions": embedding(c.sequence, d),
              "layers": repeated(layer, c.layers, stacked=c.scan_layers), "norm": layer_norm_params(d)}
    return language_model(c, params, lambda layer, x: gpt2_layer(layer, x, c.heads), layer_norm)


def gpt2_layer(params: Any, x: jax.Array, heads: int) -> jax.Array:
    """One decoder layer, `[b, s, d]` to the same."""
    x = x + fused_attention(params["attention"], layer_norm(params["norm1"], x), heads)
    return x + mlp(params["mlp"], layer_norm(params["norm2"], x))


def fused_attention(params: Any, x: jax.Array, heads: int) -> jax.Array:
    """Causal attention, `[b, s, d]` to the same."""
    b, s, d = x.shape
    q, k, v = (part.reshape(b, s, heads, d // heads) for part in
               jnp.split(x @ params["qkv"] + params["qkv_bias"], 3, axis=-1))
    scores = jnp.einsum("bshk,bthk->bhst", q, k).astype(jnp.float32) * ((d // heads) ** -0.5)
    weights = jax.nn.softmax(causal_mask(scores), axis=-1).astype(x.dtype)
    mixed = jnp.einsum("bhst,bthk->bshk", weights, v).reshape(b, s, d)
    return mixed @ params["out"] + params["out_bias"]


register("gpt2-tiny", Gpt2Config(32, 64, 4, 8, 256), gpt2)
register("gpt2", Gpt2Config(1024, 768, 12, 12), gpt2)
register("gpt2-medium", Gpt2Config(1024, 1024, 24, 16), gpt2)
register("gpt2-large", Gpt2Config(1024, 1280, 36, 20), gpt2)
register("gpt2-xl", Gpt2Config(1024, 1600, 48, 25), gpt2)
