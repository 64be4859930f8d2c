"""ViT: an image cut into patches, read by a transformer encoder with a class token.

Source: Dosovitskiy et al. 2021, table 1 and appendix.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from planner.models.declare import Field, Param, embedding, normal, repeated, zeros
from planner.models.layers import (
    attention,
    attention_params,
    cast,
    cross_entropy,
    layer_norm,
    layer_norm_params,
    mlp,
    mlp_params,
    run_layers,
)
from planner.models.table import Network, register


@dataclass(frozen=True)
class VitConfig:
    """Sizes of a ViT; `image` and `patch` in pixels a side. The feed-forward size is `4 * hidden`."""

    image: int
    patch: int
    hidden: int
    layers: int
    heads: int
    classes: int = 1000
    dtype: str = "bfloat16"
    scan_layers: bool = False


def vit(c: VitConfig) -> Network:
    """Batch: `images` `[b, y, x, 3]`, `labels` `[b]`. Outputs: logits `[b, classes]`."""
    side = c.image // c.patch
    pixels = c.patch * c.patch * 3
    layer = {"norm1": layer_norm_params(c.hidden),
             "attention": attention_params(c.hidden, c.heads, c.hidden // c.heads),
             "norm2": layer_norm_params(c.hidden), "mlp": mlp_params(c.hidden, 4 * c.hidden)}
    params = {"patch": normal(pixels, c.hidden, fan_in=pixels), "patch_bias": zeros(c.hidden),
              "class_token": Param((c.hidden,), std=0.02), "positions": embedding(side * side + 1, c.hidden),
              "layers": repeated(layer, c.layers, stacked=c.scan_layers), "norm": layer_norm_params(c.hidden),
              "head": normal(c.hidden, c.classes, fan_in=c.hidden), "head_bias": zeros(c.classes)}

    def forward(params: Any, batch: Any) -> jax.Array:
        params = cast(params, c.dtype)
        patches = batch["images"].astype(c.dtype).reshape(-1, side, c.patch, side, c.patch, 3)
        patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(-1, side * side, pixels)
        x = jnp.einsum("bsp,pd->bsd", patches, params["patch"]) + params["patch_bias"]
        first = jnp.broadcast_to(params["class_token"], (x.shape[0], 1, c.hidden))
        x = jnp.concatenate([first, x], axis=1) + params["positions"]
        x = layer_norm(params["norm"], run_layers(vit_layer, params["layers"], x)[:, 0])
        return x @ params["head"] + params["head_bias"]

    def loss(params: Any, batch: Any) -> jax.Array:
        return cross_entropy(forward(params, batch), batch["labels"])

    fields = {"images": Field((c.image, c.image, 3)), "labels": Field((), limit=c.classes)}
    return Network(params, fields, loss, forward)


def vit_layer(params: Any, x: jax.Array) -> jax.Array:
    """One encoder layer, `[b, s, d]` to the same."""
    x = x + attention(params["attention"], layer_norm(params["norm1"], x))
    return x + mlp(params["mlp"], layer_norm(params["norm2"], x))


register("vit-tiny", VitConfig(16, 4, 64, 4, 8, classes=16), vit)
register("vit-b16", VitConfig(224, 16, 768, 12, 12), vit)
register("vit-l16", VitConfig(224, 16, 1024, 24, 16), vit)
register("vit-h14", VitConfig(224, 14, 1280, 32, 16), vit)
