"""UNet: the denoiser of a diffusion model, down through coarser images and up again with skip connections.

Residual blocks told the noise level; self-attention on the coarsest level. Sources: Ronneberger et al. 2015, Ho et al.
2020; channels and sizes are those of the benchmark of Alpa (Zheng et al., OSDI 2022). Images are `[b, y, x, channels]`.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from planner.errors import ModelError
from planner.models.declare import Field, normal
from planner.models.layers import (
    NORM_EPSILON,
    attention,
    attention_params,
    cast,
    layer_norm,
    layer_norm_params,
)
from planner.models.table import Network, register
from planner.models.wide_resnet import convolve

NOISE_LEVELS = 1000  # Ho et al.


@dataclass(frozen=True)
class UnetConfig:
    """Sizes of a UNet: level n has `channels * multipliers[n]` channels, and attention from level `attend_from` on."""

    image: int
    channels: int
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    attend_from: int = 3
    heads: int = 8
    image_channels: int = 4
    dtype: str = "bfloat16"
    scan_layers: bool = False


def unet(c: UnetConfig) -> Network:
    """Batch: `noisy` and `noise` `[b, y, x, i]`, noise level `step` `[b]`. Outputs: the noise; the loss is the
    mean squared error.

    Raises:
      ModelError: `scan_layers` is asked for.
    """
    if c.scan_layers:
        raise ModelError("the levels of a UNet differ, so they can't be scanned", "leave scan_layers at False")
    params = _unet_params(c)

    def forward(params: Any, batch: Any) -> jax.Array:
        params = cast(params, c.dtype)
        return _denoise(params, batch["noisy"].astype(c.dtype), _level(params["step"], batch["step"], c))

    def loss(params: Any, batch: Any) -> jax.Array:
        return jnp.mean((forward(params, batch).astype(jnp.float32) - batch["noise"]) ** 2)

    image = Field((c.image, c.image, c.image_channels))
    return Network(params, {"noisy": image, "noise": image, "step": Field((), limit=NOISE_LEVELS)}, loss, forward)


def group_norm(params: Any, x: jax.Array, groups: int = 8) -> jax.Array:
    """Zero mean and unit variance over the image and each group of channels, then scale and bias per channel."""
    y = x.astype(jnp.float32).reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    y = y - y.mean((1, 3), keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, (1, 3), keepdims=True) + NORM_EPSILON)
    return (y.reshape(x.shape) * params["scale"] + params["bias"]).astype(x.dtype)


def _unet_params(c: UnetConfig) -> dict[str, Any]:
    widths = [c.channels * m for m in c.multipliers]
    skips, down, up, x = [], [], [], c.channels
    for level, width in enumerate(widths):
        blocks = []
        for _ in range(c.blocks):
            blocks.append(_block_params(x, width, c, attend=level >= c.attend_from))
            x = width
            skips.append(x)
        down.append(blocks)
    middle = [_block_params(x, x, c, attend=True), _block_params(x, x, c, attend=False)]
    for level, width in reversed(list(enumerate(widths))):
        blocks = []
        for _ in range(c.blocks):
            blocks.append(_block_params(x + skips.pop(), width, c, attend=level >= c.attend_from))
            x = width
        up.append(blocks)
    time = 4 * c.channels
    return {"step": {"up": normal(c.channels, time, fan_in=c.channels), "down": normal(time, time, fan_in=time)},
            "input": _conv(3, c.image_channels, c.channels), "down": down, "middle": middle, "up": up,
            "norm": layer_norm_params(x), "output": _conv(3, x, c.image_channels)}


def _denoise(params: Any, x: jax.Array, level: jax.Array) -> jax.Array:
    x = convolve(params["input"], x)
    skips, apply = [], jax.jit(_block)  # blocks that are alike are traced once
    for n, blocks in enumerate(params["down"]):
        x = _halve(x) if n else x
        for block in blocks:
            x = apply(block, x, level)
            skips.append(x)
    for block in params["middle"]:
        x = apply(block, x, level)
    for n, blocks in enumerate(params["up"]):
        x = _double(x) if n else x
        for block in blocks:
            x = apply(block, jnp.concatenate([x, skips.pop()], axis=-1), level)
    return convolve(params["output"], jax.nn.silu(group_norm(params["norm"], x)))


def _halve(x: jax.Array) -> jax.Array:
    """The mean of every 2 by 2 pixels."""
    b, height, width, channels = x.shape
    return x.reshape(b, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def _double(x: jax.Array) -> jax.Array:
    """Every pixel 2 by 2 times."""
    b, height, width, channels = x.shape
    wide = jnp.broadcast_to(x[:, :, None, :, None], (b, height, 2, width, 2, channels))
    return wide.reshape(b, 2 * height, 2 * width, channels)


def _block(params: Any, x: jax.Array, level: jax.Array) -> jax.Array:
    y = convolve(params["conv1"], jax.nn.silu(group_norm(params["norm1"], x)))
    y = y + (jax.nn.silu(level) @ params["level"])[:, None, None, :]
    y = convolve(params["conv2"], jax.nn.silu(group_norm(params["norm2"], y)))
    x = y + (convolve(params["project"], x) if "project" in params else x)
    if "attention" in params:
        flat = x.reshape(x.shape[0], -1, x.shape[-1])
        flat = flat + attention(params["attention"], layer_norm(params["attention_norm"], flat))
        x = flat.reshape(x.shape)
    return x


def _block_params(inputs: int, width: int, c: UnetConfig, *, attend: bool) -> dict[str, Any]:
    params = {"norm1": layer_norm_params(inputs), "conv1": _conv(3, inputs, width),
              "level": normal(4 * c.channels, width, fan_in=4 * c.channels),
              "norm2": layer_norm_params(width), "conv2": _conv(3, width, width)}
    if inputs != width:
        params["project"] = _conv(1, inputs, width)
    if attend:
        params["attention"] = attention_params(width, c.heads, width // c.heads)
        params["attention_norm"] = layer_norm_params(width)
    return params


def _level(params: Any, step: jax.Array, c: UnetConfig) -> jax.Array:
    """Noise levels `[b]` as vectors `[b, 4 * channels]`: sines and cosines of many frequencies, through two layers."""
    half = c.channels // 2
    frequencies = jnp.exp(-math.log(10_000.0) / half * jnp.arange(half, dtype=jnp.float32))
    angles = step.astype(jnp.float32)[:, None] * frequencies
    waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1).astype(c.dtype)
    return jax.nn.silu(waves @ params["up"]) @ params["down"]


def _conv(size: int, inputs: int, outputs: int) -> Any:
    return normal(size, size, inputs, outputs, fan_in=size * size * inputs)


register("unet-tiny", UnetConfig(8, 16, multipliers=(1, 2), blocks=1, attend_from=1), unet)
register("unet-470m", UnetConfig(32, 320), unet)
register("unet-1b", UnetConfig(32, 480), unet)
register("unet-2b", UnetConfig(32, 672), unet)
