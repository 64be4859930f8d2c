"""A multi-layer perceptron with equal layers: the smallest model on which every kind of parallelism can be seen."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from planner.models.declare import Field, normal, repeated, zeros
from planner.models.layers import cast, run_layers
from planner.models.table import Network, register


@dataclass(frozen=True)
class MlpConfig:
    """Sizes of a perceptron whose input, inner and output sizes are all `hidden`."""

    hidden: int
    layers: int
    dtype: str = "bfloat16"
    scan_layers: bool = False


def perceptron(c: MlpConfig) -> Network:
    """Batch: `x` and `y` `[b, d]`, float32. Outputs: a prediction of `y`; the loss is the mean squared error."""
    layer = {"weight": normal(c.hidden, c.hidden, fan_in=c.hidden), "bias": zeros(c.hidden)}
    params = {"layers": repeated(layer, c.layers, stacked=c.scan_layers)}

    def forward(params: Any, batch: Any) -> jax.Array:
        return run_layers(perceptron_layer, cast(params["layers"], c.dtype), batch["x"].astype(c.dtype))

    def loss(params: Any, batch: Any) -> jax.Array:
        return jnp.mean((forward(params, batch).astype(jnp.float32) - batch["y"]) ** 2)

    vector = Field((c.hidden,))
    return Network(params, {"x": vector, "y": vector}, loss, forward)


def perceptron_layer(params: Any, x: jax.Array) -> jax.Array:
    """One layer, `[b, d]` to the same."""
    return jax.nn.relu(x @ params["weight"] + params["bias"])


register("mlp-tiny", MlpConfig(64, 6), perceptron)
register("mlp-100m", MlpConfig(4096, 6), perceptron)
register("mlp-1b", MlpConfig(8192, 15), perceptron)
