"""Wide-ResNet: bottleneck residual blocks whose 3x3 convolution is `width_factor` wider; batch statistics are state.

Early blocks have large images and few channels, late ones the opposite, so that pipeline stages come out uneven.
Sources: He et al. 2016 (ResNet), Zagoruyko and Komodakis 2016; the sizes are those of the evaluation of Alpa (Zheng et
al., OSDI 2022). Images are `[b, height, width, channels]`.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from planner.errors import ModelError
from planner.models.declare import Field, normal, ones, zeros
from planner.models.layers import NORM_EPSILON, cast, cross_entropy
from planner.models.table import Network, register

BLOCKS = ((14, (1, 1, 1, 1)), (26, (2, 2, 2, 2)), (50, (3, 4, 6, 3)), (101, (3, 4, 23, 3)))
"""Depth -> blocks per group; the last two are He et al.'s."""

MOMENTUM = 0.9  # of the running statistics, as in He et al.'s released models


@dataclass(frozen=True)
class WideResnetConfig:
    """Sizes of a Wide-ResNet; `channels` is the width of the first group of blocks."""

    image: int
    layers: int
    channels: int
    width_factor: int
    classes: int = 1024
    dtype: str = "bfloat16"
    scan_layers: bool = False


def wide_resnet(c: WideResnetConfig) -> Network:
    """Batch: `images` `[b, y, x, 3]`, `labels` `[b]`. Outputs: logits `[b, classes]`.

    Raises:
      ModelError: the depth is none of those known, or `scan_layers` is asked for.
    """
    blocks = dict(BLOCKS).get(c.layers)
    if blocks is None:
        raise ModelError(f"there is no Wide-ResNet of {c.layers} layers", f"choose one of {[d for d, _ in BLOCKS]}")
    if c.scan_layers:
        raise ModelError("the blocks of a Wide-ResNet differ, so they can't be scanned", "leave scan_layers at False")
    strides = [2 if group and not n else 1 for group, count in enumerate(blocks) for n in range(count)]
    widths = [c.channels * 2**group for group, count in enumerate(blocks) for _ in range(count)]
    inputs = [c.channels, *(4 * w for w in widths)]
    params = {"stem": _conv(7, 3, c.channels), "stem_norm": _norm(c.channels),
              "blocks": [_block_params(i, w, c.width_factor) for i, w in zip(inputs, widths, strict=False)],
              "head": normal(inputs[-1], c.classes, fan_in=inputs[-1]), "head_bias": zeros(c.classes)}
    state = {"stem_norm": _statistics(c.channels),
             "blocks": [_block_statistics(w, c.width_factor, project=w * 4 != i) for i, w in
                        zip(inputs, widths, strict=False)]}

    def run(params: Any, state: Any, batch: Any, *, train: bool) -> tuple[jax.Array, Any]:
        params = cast(params, c.dtype)
        x = convolve(params["stem"], batch["images"].astype(c.dtype), stride=2)
        x, stem = batch_norm(params["stem_norm"], state["stem_norm"], x, train=train)
        x = _max_pool(jax.nn.relu(x))
        new = {"stem_norm": stem, "blocks": []}
        block = jax.jit(_block, static_argnames=("stride", "train"))  # blocks that are alike are traced once
        for weights, statistics, stride in zip(params["blocks"], state["blocks"], strides, strict=True):
            x, updated = block(weights, statistics, x, stride, train=train)
            new["blocks"].append(updated)
        return x.mean((1, 2)) @ params["head"] + params["head_bias"], new

    def loss(params: Any, state: Any, batch: Any) -> tuple[jax.Array, Any]:
        logits, new = run(params, state, batch, train=True)
        return cross_entropy(logits, batch["labels"]), new

    batch = {"images": Field((c.image, c.image, 3)), "labels": Field((), limit=c.classes)}
    return Network(params, batch, loss, lambda params, state, batch: run(params, state, batch, train=False), state)


def convolve(kernel: jax.Array, x: jax.Array, stride: int = 1) -> jax.Array:
    """Convolution with padding that keeps the image size (divided by the stride); kernel `[y, x, in, out]`."""
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def batch_norm(params: Any, statistics: Any, x: jax.Array, *, train: bool) -> tuple[jax.Array, Any]:
    """Normalise channels, over the batch when training and by the running statistics otherwise; (y, new statistics)."""
    y = x.astype(jnp.float32)
    if train:
        mean = y.mean((0, 1, 2))
        variance = jnp.square(y).mean((0, 1, 2)) - jnp.square(mean)
        keep = jax.lax.stop_gradient((mean, variance))
        statistics = {"mean": MOMENTUM * statistics["mean"] + (1 - MOMENTUM) * keep[0],
                      "variance": MOMENTUM * statistics["variance"] + (1 - MOMENTUM) * keep[1]}
    else:
        mean, variance = statistics["mean"], statistics["variance"]
    y = (y - mean) * (jax.lax.rsqrt(variance + NORM_EPSILON) * params["scale"]) + params["bias"]
    return y.astype(x.dtype), statistics


def _block(params: Any, statistics: Any, x: jax.Array, stride: int, *, train: bool) -> tuple[jax.Array, Any]:
    y, new = x, {}
    for n, step in enumerate((1, stride, 1), 1):
        y = convolve(params[f"conv{n}"], y, step)
        y, new[f"norm{n}"] = batch_norm(params[f"norm{n}"], statistics[f"norm{n}"], y, train=train)
        y = y if n == 3 else jax.nn.relu(y)
    if "project" in params:
        x = convolve(params["project"], x, stride)
        x, new["project_norm"] = batch_norm(params["project_norm"], statistics["project_norm"], x, train=train)
    return jax.nn.relu(x + y), new


def _max_pool(x: jax.Array) -> jax.Array:
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")


def _block_params(inputs: int, width: int, factor: int) -> dict[str, Any]:
    params = {"conv1": _conv(1, inputs, width), "norm1": _norm(width),
              "conv2": _conv(3, width, width * factor), "norm2": _norm(width * factor),
              "conv3": _conv(1, width * factor, width * 4), "norm3": _norm(width * 4)}
    if inputs != width * 4:
        params |= {"project": _conv(1, inputs, width * 4), "project_norm": _norm(width * 4)}
    return params


def _block_statistics(width: int, factor: int, *, project: bool) -> dict[str, Any]:
    statistics = {"norm1": _statistics(width), "norm2": _statistics(width * factor), "norm3": _statistics(width * 4)}
    return statistics | {"project_norm": _statistics(width * 4)} if project else statistics


def _conv(size: int, inputs: int, outputs: int) -> Any:
    return normal(size, size, inputs, outputs, fan_in=size * size * inputs)


def _norm(size: int) -> dict[str, Any]:
    return {"scale": ones(size), "bias": zeros(size)}


def _statistics(size: int) -> dict[str, Any]:
    return {"mean": zeros(size), "variance": ones(size)}


register("wresnet-tiny", WideResnetConfig(64, 14, 8, 2, classes=16), wide_resnet)
register("wresnet-250m", WideResnetConfig(224, 50, 160, 2), wide_resnet)
register("wresnet-500m", WideResnetConfig(224, 50, 224, 2), wide_resnet)
register("wresnet-1b", WideResnetConfig(224, 50, 320, 2), wide_resnet)
register("wresnet-2b", WideResnetConfig(224, 50, 448, 2), wide_resnet)
register("wresnet-4b", WideResnetConfig(224, 50, 640, 2), wide_resnet)
register("wresnet-6.8b", WideResnetConfig(224, 50, 320, 16), wide_resnet)
register("wresnet-13b", WideResnetConfig(224, 101, 320, 16), wide_resnet)
