"""MoE: a GPT whose every second layer has a mixture of experts for a feed-forward block.

Source: Lepikhin et al. 2020 (GShard); the sizes are those of the evaluation of Alpa (Zheng et al., OSDI 2022), whose
feed-forward size is 8 times the hidden size.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from planner.models.declare import embedding, normal, repeated
from planner.models.gating import mixture
from planner.models.gpt import gpt_layer
from planner.models.language import Balance, language_model
from planner.models.layers import attention, attention_params, layer_norm, layer_norm_params, mlp_params
from planner.models.table import Network, register


@dataclass(frozen=True)
class MoeConfig:
    """Sizes of a mixture of experts. `layers` counts dense and expert layers together."""

    sequence: int
    hidden: int
    layers: int
    heads: int
    experts: int
    vocabulary: int = 32_000
    group: int = 2048
    capacity_factor: float = 1.0
    balance_weight: float = 0.01
    dtype: str = "bfloat16"
    scan_layers: bool = False


def moe(c: MoeConfig) -> Network:
    """Batch: `tokens` and `labels` `[b, s]`. Outputs: logits `[b, s, v]`."""
    shared = {"norm1": layer_norm_params(c.hidden), "norm2": layer_norm_params(c.hidden),
              "attention": attention_params(c.hidden, c.heads, c.hidden // c.heads)}
    inner = 8 * c.hidden
    experts = {"router": normal(c.hidden, c.experts, fan_in=c.hidden),
               "up": normal(c.experts, c.hidden, inner, fan_in=c.hidden),
               "down": normal(c.experts, inner, c.hidden, fan_in=inner)}
    pair = {"dense": {**shared, "mlp": mlp_params(c.hidden, inner)}, "sparse": {**shared, "experts": experts}}
    params = {"embedding": embedding(c.vocabulary, c.hidden), "positions": embedding(c.sequence, c.hidden),
              "pairs": repeated(pair, c.layers // 2, stacked=c.scan_layers), "norm": layer_norm_params(c.hidden)}

    def pair_layer(layer: Any, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x, imbalance = carry
        x, balance = _sparse_layer(layer["sparse"], gpt_layer(layer["dense"], x), c)
        return x, imbalance + balance

    return language_model(c, params, pair_layer, layer_norm, balance=Balance(c.balance_weight, c.layers // 2),
                          layers="pairs")


def _sparse_layer(params: Any, x: jax.Array, c: MoeConfig) -> tuple[jax.Array, jax.Array]:
    x = x + attention(params["attention"], layer_norm(params["norm1"], x), causal=True)
    weights = params["experts"]

    def experts(tokens: jax.Array) -> jax.Array:
        inner = jax.nn.gelu(jnp.einsum("egcd,edf->egcf", tokens, weights["up"]))
        return jnp.einsum("egcf,efd->egcd", inner, weights["down"])

    y, balance = mixture(layer_norm(params["norm2"], x), weights["router"], experts, group=c.group,
                         capacity_factor=c.capacity_factor)
    return x + y, balance


register("moe-tiny", MoeConfig(32, 64, 4, 8, 8, vocabulary=256, group=32), moe)
register("moe-380m", MoeConfig(1024, 768, 8, 16, 8), moe)
register("moe-690m", MoeConfig(1024, 768, 8, 16, 16), moe)
register("moe-1.3b", MoeConfig(1024, 768, 16, 16, 16), moe)
register("moe-2.4b", MoeConfig(1024, 1024, 16, 16, 16), moe)
register("moe-7.1b", MoeConfig(1024, 1280, 16, 16, 32), moe)
register("moe-10b", MoeConfig(1024, 1536, 16, 16, 32), moe)
register("moe-27b", MoeConfig(1024, 2048, 16, 16, 48), moe)
register("moe-70b", MoeConfig(1024, 2048, 32, 16, 64), moe)
register("moe-140b", MoeConfig(1024, 2048, 32, 16, 128), moe)
