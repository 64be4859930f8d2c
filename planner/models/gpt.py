"""GPT: a decoder-only transformer with learned positions, layer norm before each block, and tied embeddings.

Source: Radford et al. 2019 (GPT-2); the sizes are those of the evaluation of Alpa (Zheng et al., OSDI 2022).
"""

from dataclasses import dataclass
from typing import Any

import jax

from planner.models.declare import embedding, repeated
from planner.models.language import language_model
from planner.models.layers import attention, attention_params, layer_norm, layer_norm_params, mlp, mlp_params
from planner.models.table import Network, register


@dataclass(frozen=True)
class GptConfig:
    """Sizes of a GPT. The feed-forward size is `4 * hidden`."""

    sequence: int
    hidden: int
    layers: int
    heads: int
    vocabulary: int = 51_200
    dtype: str = "bfloat16"
    scan_layers: bool = False


def gpt(c: GptConfig) -> Network:
    """Batch: `tokens` and `labels` `[b, s]`. Outputs: logits `[b, s, v]`."""
    layer = {"norm1": layer_norm_params(c.hidden),
             "attention": attention_params(c.hidden, c.heads, c.hidden // c.heads),
             "norm2": layer_norm_params(c.hidden), "mlp": mlp_params(c.hidden, 4 * c.hidden)}
    params = {"embedding": embedding(c.vocabulary, c.hidden),
              "positions": embedding(c.sequence, c.hidden),
              "layers": repeated(layer, c.layers, stacked=c.scan_layers), "norm": layer_norm_params(c.hidden)}
    return language_model(c, params, gpt_layer, layer_norm)


def gpt_layer(params: Any, x: jax.Array) -> jax.Array:
    """One decoder layer, `[b, s, d]` to the same."""
    x = x + attention(params["attention"], layer_norm(params["norm1"], x), causal=True)
    return x + mlp(params["mlp"], layer_norm(params["norm2"], x))


register("gpt-tiny", GptConfig(32, 64, 4, 8, vocabulary=256), gpt)
register("gpt-125m", GptConfig(1024, 768, 12, 12), gpt)
register("gpt-350m", GptConfig(1024, 1024, 24, 16), gpt)
register("gpt-760m", GptConfig(1024, 1536, 24, 16), gpt)
register("gpt-1.3b", GptConfig(1024, 2048, 24, 32), gpt)
register("gpt-2.6b", GptConfig(1024, 2560, 32, 32), gpt)
register("gpt-6.7b", GptConfig(1024, 4096, 32, 32), gpt)
register("gpt-15b", GptConfig(1024, 5120, 48, 40), gpt)
register("gpt-39b", GptConfig(1024, 8192, 48, 64), gpt)
register("gpt-76b", GptConfig(1024, 10_240, 60, 80), gpt)
