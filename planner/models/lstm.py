"""A stack of LSTMs as a language model: every layer is a `lax.scan` over time.

Source: Zaremba et al. 2014, whose medium and large models these are, without dropout.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from planner.models.declare import Field, embedding, normal, repeated, zeros
from planner.models.layers import cast, cross_entropy, run_layers
from planner.models.table import Network, register


@dataclass(frozen=True)
class LstmConfig:
    """Sizes of a stack of LSTMs; the embedding is as wide as the hidden state."""

    sequence: int
    hidden: int
    layers: int
    vocabulary: int
    dtype: str = "bfloat16"
    scan_layers: bool = False


def lstm(c: LstmConfig) -> Network:
    """Batch: `tokens` and `labels` `[b, t]`. Outputs: logits `[b, t, v]`."""
    layer = {"input": normal(c.hidden, 4, c.hidden, fan_in=c.hidden),
             "recurrent": normal(c.hidden, 4, c.hidden, fan_in=c.hidden), "bias": zeros(4, c.hidden)}
    params = {"embedding": embedding(c.vocabulary, c.hidden),
              "layers": repeated(layer, c.layers, stacked=c.scan_layers),
              "head": normal(c.hidden, c.vocabulary, fan_in=c.hidden), "head_bias": zeros(c.vocabulary)}

    def forward(params: Any, batch: Any) -> jax.Array:
        params = cast(params, c.dtype)
        x = run_layers(lstm_layer, params["layers"], params["embedding"][batch["tokens"]])
        return jnp.einsum("btd,dv->btv", x, params["head"]) + params["head_bias"]

    def loss(params: Any, batch: Any) -> jax.Array:
        return cross_entropy(forward(params, batch), batch["labels"])

    tokens = Field((c.sequence,), limit=c.vocabulary)
    return Network(params, {"tokens": tokens, "labels": tokens}, loss, forward)


def lstm_layer(params: Any, x: jax.Array) -> jax.Array:
    """One LSTM over `[b, t, d]`, starting from zeros; gates in the order input, forget, cell, output."""
    gates_of_input = jnp.einsum("btd,dgh->tbgh", x, params["input"]) + params["bias"]

    def step(carry: tuple[jax.Array, jax.Array], from_input: jax.Array) -> tuple[Any, jax.Array]:
        hidden, cell = carry
        gates = from_input + jnp.einsum("bd,dgh->bgh", hidden, params["recurrent"])
        take, forget, write, show = (gates[:, g] for g in range(4))
        cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(take) * jnp.tanh(write)
        hidden = jax.nn.sigmoid(show) * jnp.tanh(cell)
        return (hidden, cell), hidden

    start = jnp.zeros((x.shape[0], x.shape[2]), x.dtype)
    return jax.lax.scan(step, (start, start), gates_of_input)[1].transpose(1, 0, 2)


register("lstm-tiny", LstmConfig(16, 64, 2, 256), lstm)
register("lstm-20m", LstmConfig(35, 650, 2, 10_000), lstm)
register("lstm-66m", LstmConfig(35, 1500, 2, 10_000), lstm)
