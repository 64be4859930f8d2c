"""An abstract GPT of any size, its layers stacked by `lax.scan`."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from tests.trace.cases import block


def gpt_params(*, layers: int, width: int, heads: int, vocabulary: int) -> Any:
    def like(*shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.float32)
    head = width // heads
    return {"embedding": like(vocabulary, width), "layers": {
        **{n: like(layers, width, heads, head) for n in "qkv"}, "o": like(layers, heads, head, width),
        "w1": like(layers, width, 4 * width), "b1": like(layers, 4 * width), "w2": like(layers, 4 * width, width)}}


def gpt_loss(params: Any, batch: Any) -> Any:
    x = params["embedding"][batch["x"]].astype(jnp.bfloat16)
    low = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params["layers"])
    x, _ = lax.scan(lambda x, p: (block(p, x), None), x, low)
    logits = (x @ params["embedding"].astype(jnp.bfloat16).T).astype(jnp.float32)
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["y"][..., None], -1).mean()
