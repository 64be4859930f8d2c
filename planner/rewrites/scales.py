"""Scales and biases moved through products: to the smaller operand, before what is reduced or after it.

A scale that does not vary along what a product contracts may stand before it, after it, or be folded into a weight; a
bias before a product is one after it. On several devices a scale after a product may come before or after the sum over
devices. Source: linearity of the product; folding as in inference with normalised layers.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph, Op, Operand
from planner.rewrites.einsums import dot, free_dims, numbers
from planner.rewrites.elementwise import applied, is_small
from planner.rewrites.pattern import Match, is_alone, maker, number_of, of_one_dtype, type_of
from planner.rewrites.table import rewrite
from planner.trace.dtypes import is_inexact

Scale = tuple[int, Operand, Operand]
"""An operator that scales (or shifts), what it scales, and by what: a scalar or what is broadcast."""


def scaling(graph: Graph, n: int, primitives: Sequence[str] = ("mul", "div")) -> Scale | None:
    """What an operator scales by something small; None if it does nothing like it: integers are not divided, but cut
    off."""
    op = graph.ops[n]
    if op.primitive not in primitives:
        return None
    shape, dtype = graph.values[op.results[0]].shape, graph.values[op.results[0]].dtype
    if op.primitive == "div" and not is_inexact(dtype):
        return None
    for large, small in ((0, 1),) if op.primitive in ("div", "sub") else ((0, 1), (1, 0)):
        by, of = op.operands[small], op.operands[large]
        if type_of(graph, of).shape == shape and shape and (not type_of(graph, by).shape or is_small(graph, by, shape)):
            return n, of, by
    return None


def scaled_operand(graph: Graph, operand: Operand, primitives: Sequence[str] = ("mul", "div")) -> Scale | None:
    """What made an operand by scaling, for it alone."""
    n = graph.producers.get(operand) if isinstance(operand, int) else None
    return scaling(graph, n, primitives) if n is not None and is_alone(graph, n) else None


def varies(graph: Graph, operand: Operand) -> set[int]:
    """The dimensions along which something small is not the same."""
    return {d for d, n in enumerate(type_of(graph, operand).shape) if n > 1}


def scaled(op: Op, x: jax.Array, by: jax.Array) -> jax.Array:
    """Scale (or shift) as an operator does, in the dtype of what is scaled."""
    by = by.astype(x.dtype)
    return x / by if op.primitive == "div" else x * by


def spread(array: jax.Array, places: Sequence[int | None]) -> jax.Array:
    """An array with dimensions in another order, and of size 1 where none is wanted: result dimension -> dimension.
    Scalars stay what they are; dimensions that are not wanted are of size 1."""
    if not array.ndim:
        return array
    wanted = [p for p in places if p is not None]
    rest = [d for d in range(array.ndim) if d not in wanted]
    shape = [1 if p is None else array.shape[p] for p in places]
    return jax.lax.reshape(jax.lax.transpose(array, (*wanted, *rest)), shape)


def result_places(op: Op, side: int, ranks: Sequence[int]) -> list[int | None]:
    """For each dimension of a product's result, the dimension of one operand that it is."""
    batch, free = numbers(op)[1], [free_dims(op, k, ranks[k]) for k in (0, 1)]
    rows = [d if side == 0 else None for d in free[0]]
    return [*batch[side], *rows, *(d if side == 1 else None for d in free[1])]


def _ranks(graph: Graph, op: Op) -> list[int]:
    return [len(type_of(graph, o).shape) for o in op.operands]


def _scaled_operands(graph: Graph) -> Iterator[tuple[int, Scale, Match]]:
    for n, op in enumerate(graph.ops):
        for side in (0, 1) if op.primitive == "dot_general" else ():
            found = scaled_operand(graph, op.operands[side])
            if found is not None:
                yield side, found, Match(
                    graph, {"product": n, "scale": found[0]},
                    {"x": found[1], "by": found[2], "other": op.operands[1 - side]}, {"side": side}, op.results)


def _constant_along_contraction(graph: Graph) -> Iterator[Match]:
    for side, (_, _, by), match in _scaled_operands(graph):
        if varies(graph, by).isdisjoint(numbers(match.op("product"))[0][side]):
            yield match


def _rows_scaled(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    b, s, k, n = rng.integers(2, 5, 4)
    return (lambda x, y, w: (jnp.einsum("bsk,kn->nbs", x * y, w), jnp.einsum("bsk,btk->bst", x, x / 3.0))), \
        (rng.standard_normal((b, s, k)), rng.standard_normal((b, s, 1)), rng.standard_normal((k, n)))


@rewrite("scale_after_product", "(s*x)·w -> s*(x·w)", _constant_along_contraction, samples=_rows_scaled)
def scale_after_product(match: Match, x: jax.Array, by: jax.Array, other: jax.Array) -> jax.Array:
    """The product first."""
    op, side = match.op("product"), int(match.numbers["side"])
    pair = (x, other) if side == 0 else (other, x)
    places = result_places(op, side, [a.ndim for a in pair])
    return scaled(match.op("scale"), dot(op.params, *pair), spread(by, places))


def _varies_along_contraction(graph: Graph) -> Iterator[Match]:
    for side, (_, x, by), match in _scaled_operands(graph):
        op, along = match.op("product"), varies(graph, by)
        if match.type("x").dtype != match.type("other").dtype:
            continue  # the scale may need the digits of what it scales
        free = free_dims(op, side, len(type_of(graph, x).shape))
        if along.isdisjoint(free) and not along.isdisjoint(numbers(op)[0][side]):
            yield match


def _columns_scaled(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    b, s, k, n = rng.integers(2, 5, 4)
    return (lambda x, y, w, z: (jnp.einsum("bsk,kn->bsn", x * y, w), jnp.einsum("bsk,bkn->bsn", x, z / (1 + z[:, :, :1]
                                                                                                    ** 2)))), \
        (rng.standard_normal((b, s, k)), rng.standard_normal((1, 1, k)), rng.standard_normal((k, n)),
         rng.standard_normal((b, k, n)))


@rewrite("scale_other_operand", "(s*x)·w -> x·(s*w) for s along what is contracted", _varies_along_contraction,
         samples=_columns_scaled)
def scale_other_operand(match: Match, x: jax.Array, by: jax.Array, other: jax.Array) -> jax.Array:
    """The scale is folded into the other operand."""
    op, side = match.op("product"), int(match.numbers["side"])
    contracted, batch = numbers(op)
    theirs = dict(zip((*contracted[1 - side], *batch[1 - side]), (*contracted[side], *batch[side]), strict=True))
    other = scaled(match.op("scale"), other, spread(by, [theirs.get(d) for d in range(other.ndim)]))
    return dot(op.params, *((x, other) if side == 0 else (other, x)))


def _scaled_products(graph: Graph) -> Iterator[Match]:
    """Products whose result is scaled along rows, or columns, or by a number."""
    for n in range(len(graph.ops)):
        found = scaling(graph, n)
        m = None if found is None else maker(graph, found[1], "dot_general")
        if found is None or m is None or not is_alone(graph, m) or not of_one_dtype(graph, graph.ops[m]):
            continue
        op, along = graph.ops[m], varies(graph, found[2])
        sizes = [math.prod(type_of(graph, o).shape) for o in op.operands]
        for side in (0, 1):
            own = {d for d, p in enumerate(result_places(op, side, _ranks(graph, op))) if p is not None}
            if along <= own and (along or sizes[side] <= sizes[1 - side]):
                yield Match(graph, {"scale": n, "product": m},
                            {"a": op.operands[0], "b": op.operands[1], "by": found[2]}, {"side": side},
                            graph.ops[n].results)
                break


def _product_scaled(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    b, s, k, n = rng.integers(2, 5, 4)
    return (lambda x, y, w: (jnp.einsum("bsk,kn->bsn", x, w) * y, jnp.einsum("bsk,btk->bst", x, x) / 3.0,
                             jnp.einsum("bsk,kn->bsn", x, w) * y[:1, :1])), \
        (rng.standard_normal((b, s, k)), rng.standard_normal((b, 1, n))[:1], rng.standard_normal((k, n)))


@rewrite("scale_before_product", "s*(x·w) -> (s*x)·w, or x·(s*w)", _scaled_products, samples=_product_scaled)
def scale_before_product(match: Match, a: jax.Array, b: jax.Array, by: jax.Array) -> jax.Array:
    """The operand is scaled that has the scale's dimensions, or the smaller one."""
    op, side = match.op("product"), int(match.numbers["side"])
    places = result_places(op, side, (a.ndim, b.ndim))
    back = {p: d for d, p in enumerate(places) if p is not None}
    array = (a, b)[side]
    array = scaled(match.op("scale"), array, spread(by, [back.get(d) for d in range(array.ndim)]))
    return dot(op.params, *((array, b) if side == 0 else (a, array)))


def _shifted_operands(graph: Graph) -> Iterator[Match]:
    """Products of which one operand is something and a bias that is the same in every row."""
    for n, op in enumerate(graph.ops):
        for side in (0, 1) if op.primitive == "dot_general" else ():
            found = scaled_operand(graph, op.operands[side], ("add", "sub"))
            if found is None or number_of(graph, found[2]) is not None or not type_of(graph, found[2]).shape:
                continue
            shape = type_of(graph, found[1]).shape
            free = free_dims(op, side, len(shape))
            if varies(graph, found[2]).isdisjoint(free) and any(shape[d] > 1 for d in free):
                yield Match(graph, {"product": n, "shift": found[0]},
                            {"x": found[1], "by": found[2], "other": op.operands[1 - side]}, {"side": side},
                            op.results)


def _shifted(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    b, s, k, n = rng.integers(2, 5, 4)
    return (lambda x, y, w: (jnp.einsum("bsk,kn->bsn", x + y, w), jnp.einsum("kn,bsk->nbs", w, x - y))), \
        (rng.standard_normal((b, s, k)), rng.standard_normal((1, 1, k)), rng.standard_normal((k, n)))


@rewrite("bias_after_product", "(x + b)·w -> x·w + b·w", _shifted_operands, samples=_shifted)
def bias_after_product(match: Match, x: jax.Array, by: jax.Array, other: jax.Array) -> jax.Array:
    """The bias is multiplied by the weights alone, once for all rows."""
    op, side = match.op("product"), int(match.numbers["side"])
    contracted, batch = numbers(op)
    bound = {*contracted[side], *batch[side]}
    by = jnp.broadcast_to(by, tuple(x.shape[d] if d in bound else 1 for d in range(x.ndim))).astype(x.dtype)
    each = [dot(op.params, *((a, other) if side == 0 else (other, a))) for a in (x, by)]
    return applied(match.op("shift"), each)
