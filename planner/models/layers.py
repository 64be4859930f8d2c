"""The pieces that several families share: normalisation, attention, feed-forward, loss, and running layers in a row.

Shapes: b batch, s query position, t key position, d hidden, h heads, k head size, f feed-forward size, v vocabulary.
Weights arrive in the compute dtype; softmax, normalisation and loss are computed in float32.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from planner.models.declare import Param, normal, ones, zeros

NORM_EPSILON = 1e-5  # as in GPT-2 and Llama 3


def cast(tree: Any, dtype: str) -> Any:
    """Floating-point leaves in the compute dtype; the float32 master copy stays with the caller."""
    return jax.tree_util.tree_map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def run_layers(layer: Callable[[Any, Any], Any], layers: Any, x: Any) -> Any:
    """`x = layer(params, x)` for each layer in a row; a list is unrolled, stacked parameters go through `lax.scan`.
    Layers of a list that are alike are traced once: `jax.jit` keeps what it traced."""
    if isinstance(layers, list):
        once = jax.jit(layer)
        for params in layers:
            x = once(params, x)
        return x
    return jax.lax.scan(lambda carry, params: (layer(params, carry), None), x, layers)[0]


def layer_norm_params(size: int) -> dict[str, Param]:
    """Scale and bias over the last dimension."""
    return {"scale": ones(size), "bias": zeros(size)}


def layer_norm(params: Any, x: jax.Array) -> jax.Array:
    """Zero mean and unit variance over the last dimension, then scale and bias."""
    y = x.astype(jnp.float32)
    y = y - y.mean(-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + NORM_EPSILON)
    return (y * params["scale"] + params["bias"]).astype(x.dtype)


def rms_norm(scale: jax.Array, x: jax.Array) -> jax.Array:
    """Unit root mean square over the last dimension, then scale."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + NORM_EPSILON)
    return (y * scale).astype(x.dtype)


def attention_params(hidden: int, heads: int, head_size: int) -> dict[str, Param]:
    """Projections without bias: query, key and value `[d, h, k]`, output `[h, k, d]`."""
    wide = (hidden, heads, head_size)
    return {"query": normal(*wide, fan_in=hidden), "key": normal(*wide, fan_in=hidden),
            "value": normal(*wide, fan_in=hidden), "out": normal(heads, head_size, hidden, fan_in=heads * head_size)}


def attention(params: Any, x: jax.Array, *, source: jax.Array | None = None, causal: bool = False,
              bias: jax.Array | None = None, scaled: bool = True) -> jax.Array:
    """Multi-head attention of `x` `[b, s, d]` to `source` `[b, t, d]` (itself if None); `bias` is `[h, s, t]`."""
    source = x if source is None else source
    q = jnp.einsum("bsd,dhk->bshk", x, params["query"])
    k = jnp.einsum("btd,dhk->bthk", source, params["key"])
    v = jnp.einsum("btd,dhk->bthk", source, params["value"])
    scores = jnp.einsum("bshk,bthk->bhst", q, k).astype(jnp.float32)
    if scaled:
        scores = scores * (q.shape[-1] ** -0.5)
    if bias is not None:
        scores = scores + bias.astype(jnp.float32)
    weights = jax.nn.softmax(causal_mask(scores) if causal else scores, axis=-1).astype(x.dtype)
    return jnp.einsum("bshk,hkd->bsd", jnp.einsum("bhst,bthk->bshk", weights, v), params["out"])


def causal_mask(scores: jax.Array) -> jax.Array:
    """Float32 scores `[..., s, t]` with the future (t > s) put out of reach of a softmax."""
    s, t = scores.shape[-2:]
    past = jnp.arange(s)[:, None] >= jnp.arange(t)[None, :]
    return jnp.where(past, scores, jnp.finfo(scores.dtype).min)


def mlp_params(hidden: int, inner: int) -> dict[str, Param]:
    """Two dense layers with bias: `[d, f]` and `[f, d]`."""
    return {"up": normal(hidden, inner, fan_in=hidden), "up_bias": zeros(inner),
            "down": normal(inner, hidden, fan_in=inner), "down_bias": zeros(hidden)}


def mlp(params: Any, x: jax.Array) -> jax.Array:
    """GELU between two dense layers."""
    inner = jax.nn.gelu(jnp.einsum("bsd,df->bsf", x, params["up"]) + params["up_bias"])
    return jnp.einsum("bsf,fd->bsd", inner, params["down"]) + params["down_bias"]


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over all positions of `-log softmax(logits)[label]`, in nats; logits `[..., v]`, integer labels `[...]`.

    The label's logit is picked by comparing with a counter rather than by a gather, so that it stays local when the
    vocabulary is sharded.
    """
    logits = logits.astype(jnp.float32)
    picked = jnp.arange(logits.shape[-1], dtype=labels.dtype) == labels[..., None]
    right = jnp.sum(jnp.where(picked, logits, 0.0), axis=-1)
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - right)
