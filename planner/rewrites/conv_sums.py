"""Convolutions that add up or need no window: sums over joined channels, and kernels of one pixel as products.

A convolution of two inputs joined by channel, as a U-Net's skip connection makes one, is a sum of two convolutions. One
with a kernel of one pixel is a matrix product. Source: as `convolutions.py`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph, Op
from planner.rewrites.convolutions import CONV, channels, conv, convolve, is_plain
from planner.rewrites.cuts import parted
from planner.rewrites.einsums import names_algorithm, numbers
from planner.rewrites.elementwise import applied
from planner.rewrites.pattern import Call, Match, Var, is_alone, maker, of_one_dtype, type_of
from planner.rewrites.table import rewrite
from planner.trace.dtypes import is_inexact


def _joined_inputs(graph: Graph) -> Iterator[Match]:
    """Convolutions of arrays that were put together by channel."""
    for n, op in enumerate(graph.ops):
        m = maker(graph, op.operands[0], "concatenate") if is_plain(op) else None
        if m is not None and is_alone(graph, m) and graph.ops[m].params["dimension"] == channels(op)[0]:
            parts = {str(k): o for k, o in enumerate(graph.ops[m].operands)}
            yield Match(graph, {"conv": n, "joined": m}, {"kernel": op.operands[1], **parts}, {}, op.results)


def _skip(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    i, j, o = (int(n) for n in rng.integers(1, 4, 3))
    shape = (2, *rng.integers(3, 6, 2))
    return (lambda x, y, k: convolve(jnp.concatenate([x, y], -1), k)), \
        (rng.standard_normal((*shape, i)), rng.standard_normal((*shape, j)), rng.standard_normal((3, 3, i + j, o)))


@rewrite("split_conv_input", "conv([x y], [k; l]) -> conv(x, k) + conv(y, l)", _joined_inputs, samples=_skip)
def split_conv_input(match: Match, kernel: jax.Array, *parts: jax.Array) -> jax.Array:
    """Nothing is put together first."""
    op, dim = match.op("conv"), match.params("joined")["dimension"]
    kernels = parted(kernel, [p.shape[dim] for p in parts], channels(op)[1])
    results = [conv(op.params, x, k) for x, k in zip(parts, kernels, strict=True)]
    return sum(results[1:], results[0])


def _alike(match: Match, but: tuple[int | None, int | None]) -> bool:
    """Whether two convolutions that nothing else reads differ in nothing but what they are of, and the sizes of some
    dimension of their inputs and kernels."""
    one, two = match.op("one"), match.op("two")
    if not is_plain(one) or not match.is_private("one") or not match.is_private("two"):
        return False
    params = [tuple(sorted((k, str(v)) for k, v in op.params.items())) for op in (one, two)]
    types = [[(typed.dtype, tuple(n for d, n in enumerate(typed.shape) if d != left_out))
              for typed, left_out in zip((type_of(match.graph, o) for o in op.operands), but, strict=True)]
             for op in (one, two)]
    return params[0] == params[1] and types[0] == types[1]


def _addable(match: Match) -> bool:
    """Whether they differ in the number of input channels at most."""
    return _alike(match, channels(match.op("one"))[:2]) and match.operands["x"] != match.operands["y"]


def _sum_of_convs(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    i, j, o = (int(n) for n in rng.integers(1, 4, 3))
    shape = (2, *rng.integers(3, 6, 2))
    return (lambda x, y, k, m: convolve(x, k, 2) + convolve(y, m, 2)), \
        (rng.standard_normal((*shape, i)), rng.standard_normal((*shape, j)), rng.standard_normal((3, 3, i, o)),
         rng.standard_normal((3, 3, j, o)))


@rewrite("join_conv_inputs", "conv(x, k) + conv(y, l) -> conv([x y], [k; l])",
         Call("add", (Call(CONV, (Var("x"), Var("k")), "one"), Call(CONV, (Var("y"), Var("l")), "two")), "sum"),
         where=_addable, samples=_sum_of_convs)
def join_conv_inputs(match: Match, x: jax.Array, k: jax.Array, y: jax.Array, other: jax.Array) -> jax.Array:
    """One convolution, and one reduction where channels are sharded."""
    d = match.params("one")["dimension_numbers"]
    return conv(match.params("one"), jnp.concatenate([x, y], d.lhs_spec[1]), jnp.concatenate([k, other], d.rhs_spec[1]))


def _whole(match: Match) -> bool:
    """Whether they are of equal types; what is added before is rounded as what was added after."""
    return _alike(match, (None, None)) and of_one_dtype(match.graph, match.op("one"))


def _one_input(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    i, o = (int(n) for n in rng.integers(1, 4, 2))
    return (lambda x, k, m: jnp.sin(convolve(x, k) - convolve(x, m))), \
        (rng.standard_normal((2, *rng.integers(3, 6, 2), i)), *(rng.standard_normal((3, 3, i, o)) for _ in range(2)))


@rewrite("add_kernels", "conv(x, k) + conv(x, l) -> conv(x, k + l)",
         Call("add|sub", (Call(CONV, (Var("x"), Var("k")), "one"), Call(CONV, (Var("x"), Var("l")), "two")), "sum"),
         where=_whole, samples=_one_input)
def add_kernels(match: Match, x: jax.Array, k: jax.Array, other: jax.Array) -> jax.Array:
    """One convolution with the sum of kernels, which is small."""
    return conv(match.params("one"), x, applied(match.op("sum"), [k, other]))


def _one_kernel(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    i, o = (int(n) for n in rng.integers(1, 4, 2))
    shape = (2, *rng.integers(3, 6, 2), i)
    return (lambda x, y, k: jnp.sin(convolve(x, k, 2) + convolve(y, k, 2))), \
        (rng.standard_normal(shape), rng.standard_normal(shape), rng.standard_normal((3, 3, i, o)))


@rewrite("add_conv_inputs", "conv(x, k) + conv(y, k) -> conv(x + y, k)",
         Call("add|sub", (Call(CONV, (Var("x"), Var("k")), "one"), Call(CONV, (Var("y"), Var("k")), "two")), "sum"),
         where=_whole, samples=_one_kernel)
def add_conv_inputs(match: Match, x: jax.Array, k: jax.Array, y: jax.Array) -> jax.Array:
    """One convolution of the sum of inputs."""
    return conv(match.params("one"), applied(match.op("sum"), [x, y]), k)


def _one_pixel(match: Match) -> bool:
    op, p = match.op("conv"), match.params("conv")
    window = [match.shape("kernel")[d] for d in p["dimension_numbers"].rhs_spec[2:]]
    return is_plain(op) and set(window) <= {1} and set(p["lhs_dilation"]) <= {1} and \
        all(tuple(side) == (0, 0) for side in p["padding"])


def _pixels(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    i, o, s = (int(n) for n in rng.integers(1, 4, 3))
    other = lambda x, k: jax.lax.conv(x, k, (s, s), "VALID")  # noqa: E731 (channels first)
    return (lambda x, k, y: (convolve(x, k, s), other(y, jnp.transpose(k, (3, 2, 0, 1))))), \
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
    """Whether a product is one of a matrix with the channels of what a convolution reads, made, or is added to."""
    op = match.op("product")
    if len(match.shape("x")) != 4 or len(match.shape("w")) != 2 or numbers(op) != (((3,), (0,)), ((), ())):
        return False
    return not names_algorithm(op) and of_one_dtype(match.graph, op) and is_inexact(match.type("x").dtype) and \
        _meets_convolutions(match.graph, op)


def _meets_convolutions(graph: Graph, op: Op) -> bool:
    """Whether a convolution reads or made what an operator reads, reads its result, or is read beside it."""
    near = {op.operands[0], *op.results}
    near.update(o for n in graph.consumers.get(op.results[0], ()) for o in graph.ops[n].operands if isinstance(o, int))
    return any(maker(graph, v, CONV) is not None or any(
        graph.ops[n].primitive == CONV for n in graph.consumers.get(v, ())) for v in near if isinstance(v, int))


def _image_products(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    i, o = (int(n) for n in rng.integers(1, 4, 2))
    return (lambda x, w, k: (jnp.sin(x @ w + convolve(x, k)))), \
        (rng.standard_normal((2, 4, 5, i)), rng.standard_normal((i, o)), rng.standard_normal((3, 3, i, o)))


@rewrite("product_as_conv", "a product over the channels of images -> a convolution with a kernel of one pixel",
         Call("dot_general", (Var("x"), Var("w")), "product"), where=_of_images, samples=_image_products)
def product_as_conv(match: Match, x: jax.Array, w: jax.Array) -> jax.Array:
    """Among convolutions, it may be fused with them."""
    return jax.lax.conv_general_dilated(x, w[None, None], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"),
                                        precision=match.params("product")["precision"])
