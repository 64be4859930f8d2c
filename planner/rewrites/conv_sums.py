"""Convolutions that add up or need no window: sums over joined channels, and kernels of one pixel as products.

A convolution of two inputs joined by channel, as a U-Net's skip connection makes one, is a sum of two convolutions. One
with a kernel of one pixel is a matrix product. Source: as `convolutions.py`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph
from planner.rewrites.convolutions import CONV, channel_parts, conv, is_plain, joined_inputs, same_but_channels
from planner.rewrites.einsums import numbers
from planner.rewrites.pattern import Call, Match, Var
from planner.rewrites.table import rewrite


def _convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _joined(graph: Graph) -> Iterator[Match]:
    for n, m, parts in joined_inputs(graph):
        operands = {"kernel": graph.ops[n].operands[1], **{str(k): o for k, o in enumerate(parts)}}
        yield Match(graph, {"conv": n, "joined": m}, operands, {}, graph.ops[n].results)


def _skip(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    i, j, o = (int(n) for n in rng.integers(1, 4, 3))
    shape = (2, *rng.integers(3, 6, 2))
    return (lambda x, y, k: _convolve(jnp.concatenate([x, y], -1), k)), \
        (rng.standard_normal((*shape, i)), rng.standard_normal((*shape, j)), rng.standard_normal((3, 3, i + j, o)))


@rewrite("split_conv_input", "conv([x y], [k; l]) -> conv(x, k) + conv(y, l)", _joined, samples=_skip)
def split_conv_input(match: Match, kernel: jax.Array, *parts: jax.Array) -> jax.Array:
    """Nothing is put together first."""
    op, dim = match.op("conv"), match.params("joined")["dimension"]
    kernels = channel_parts(op, kernel, [p.shape[dim] for p in parts])
    results = [conv(op.params, x, k) for x, k in zip(parts, kernels, strict=True)]
    return sum(results[1:], results[0])


def _addable(match: Match) -> bool:
    alike = same_but_channels(match.graph, match.op("one"), match.op("two"))
    return alike and match.is_private("one") and match.is_private("two") and match.operands["x"] != match.operands["y"]


def _sum_of_convs(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    i, j, o = (int(n) for n in rng.integers(1, 4, 3))
    shape = (2, *rng.integers(3, 6, 2))
    return (lambda x, y, k, m: _convolve(x, k, 2) + _convolve(y, m, 2)), \
        (rng.standard_normal((*shape, i)), rng.standard_normal((*shape, j)), rng.standard_normal((3, 3, i, o)),
         rng.standard_normal((3, 3, j, o)))


@rewrite("join_conv_inputs", "conv(x, k) + conv(y, l) -> conv([x y], [k; l])",
         Call("add", (Call(CONV, (Var("x"), Var("k")), "one"), Call(CONV, (Var("y"), Var("l")), "two")), "sum"),
         where=_addable, samples=_sum_of_convs)
def join_conv_inputs(match: Match, x: jax.Array, k: jax.Array, y: jax.Array, other: jax.Array) -> jax.Array:
    """One convolution, and one reduction where channels are sharded."""
    d = match.params("one")["dimension_numbers"]
    return conv(match.params("one"), jnp.concatenate([x, y], d.lhs_spec[1]), jnp.concatenate([k, other], d.rhs_spec[1]))


def _one_pixel(match: Match) -> bool:
    op, p = match.op("conv"), match.params("conv")
    window = [match.shape("kernel")[d] for d in p["dimension_numbers"].rhs_spec[2:]]
    return is_plain(op) and set(window) <= {1} and set(p["lhs_dilation"]) <= {1} and \
        all(tuple(side) == (0, 0) for side in p["padding"])


def _pixels(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    i, o, s = (int(n) for n in rng.integers(1, 4, 3))
    other = lambda x, k: jax.lax.conv(x, k, (s, s), "VALID")  # noqa: E731 (channels first)
    return (lambda x, k, y: (_convolve(x, k, s), other(y, jnp.transpose(k, (3, 2, 0, 1))))), \
        (rng.standard_normal((2, 4, 5, i)), rng.standard_normal((1, 1, i, o)), rng.standard_normal((2, i, 4, 5)))


@rewrite("conv_as_product", "a convolution with a kernel of one pixel -> a product",
         Call(CONV, (Var("x"), Var("kernel")), "conv"), where=_one_pixel, samples=_pixels)
def conv_as_product(match: Match, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Of the pixels that the strides leave."""
    p = match.params("conv")
    d, dtype = p["dimension_numbers"], p["preferred_element_type"]
    strides = [1] * x.ndim
    for dim, stride in zip(d.lhs_spec[2:], p["window_strides"], strict=True):
        strides[dim] = stride
    if set(strides) != {1}:
        x = jax.lax.slice(x, [0] * x.ndim, x.shape, strides)
    matrix = jnp.squeeze(kernel, tuple(d.rhs_spec[2:]))
    into = 0 if d.rhs_spec[1] < d.rhs_spec[0] else 1
    out = jax.lax.dot_general(x, matrix, (((d.lhs_spec[1],), (into,)), ((), ())), precision=p["precision"],
                              preferred_element_type=dtype)
    left = [k for k in range(x.ndim) if k != d.lhs_spec[1]]
    place = {of: k for k, of in enumerate(left)} | {d.lhs_spec[1]: x.ndim - 1}
    order = [0] * x.ndim
    for source, target in zip(d.lhs_spec, d.out_spec, strict=True):
        order[target] = place[source]
    return jnp.transpose(out, order)


def _of_images(match: Match) -> bool:
    """Whether a product is one of a matrix with the last dimension of images."""
    return len(match.shape("x")) == 4 and len(match.shape("w")) == 2 and \
        numbers(match.op("product")) == (((3,), (0,)), ((), ())) and not isinstance(
            match.params("product")["precision"], jax.lax.DotAlgorithmPreset) and \
        match.type("x").dtype == match.type("w").dtype == match.result("product").dtype


def _image_products(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    i, o = (int(n) for n in rng.integers(1, 4, 2))
    return (lambda x, w: jnp.sin(x @ w)), (rng.standard_normal((2, 4, 5, i)), rng.standard_normal((i, o)))


@rewrite("product_as_conv", "a product over the channels of images -> a convolution with a kernel of one pixel",
         Call("dot_general", (Var("x"), Var("w")), "product"), where=_of_images, samples=_image_products)
def product_as_conv(match: Match, x: jax.Array, w: jax.Array) -> jax.Array:
    """Among convolutions, it may be fused with them."""
    return jax.lax.conv_general_dilated(x, w[None, None], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"),
                                        precision=match.params("product")["precision"])
