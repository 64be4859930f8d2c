"""The frame of a decoder as a language model: token embeddings, layers in a row, a norm, logits, and their loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from planner.models.declare import Field
from planner.models.layers import cast, cross_entropy, run_layers
from planner.models.table import Network


@dataclass(frozen=True)
class Balance:
    """How the imbalance of experts counts: what it is over so many layers in the mean, times a weight, is added to the
    loss."""

    weight: float
    layers: int


def language_model(c: Any, params: Any, layer: Callable[[Any, Any], Any], norm: Callable[[Any, jax.Array], jax.Array],
                   *, balance: Balance | None = None, layers: str = "layers") -> Network:
    """A network of batches of `tokens` and `labels` `[b, s]`; its outputs are logits `[b, s, v]`.

    Args:
      c: the configuration, with `sequence`, `vocabulary` and `dtype`.
      params: declarations of `embedding`, `layers`, `norm`; `positions`, if those are learned, and `unembedding`, if
        the output layer is not the embedding.
      layer: maps its parameters and `x` `[b, s, d]` to the same; with `balance`, `(x, imbalance so far)` to those.
      norm: maps its parameters and `x` to the same.
      balance: of models with experts.
      layers: what the layers are called in `params`.
    """

    def run(params: Any, batch: Any) -> tuple[jax.Array, Any]:
        params = cast(params, c.dtype)
        x = params["embedding"][batch["tokens"]]
        if "positions" in params:
            x = x + params["positions"]
        if balance is None:
            x, imbalance = run_layers(layer, params[layers], x), None
        else:
            x, imbalance = run_layers(layer, params[layers], (x, jnp.zeros((), jnp.float32)))
        output = params["unembedding"] if "unembedding" in params else params["embedding"]
        return jnp.einsum("bsd,vd->bsv", norm(params["norm"], x), output), imbalance

    def loss(params: Any, batch: Any) -> jax.Array:
        logits, imbalance = run(params, batch)
        loss = cross_entropy(logits, batch["labels"])
        return loss if balance is None else loss + balance.weight * imbalance / balance.layers

    tokens = Field((c.sequence,), limit=c.vocabulary)
    return Network(params, {"tokens": tokens, "labels": tokens}, loss, lambda params, batch: run(params, batch)[0])
