"""Sums before and after matrix products, and products cut into partial ones that are added.

A product is linear: a sum over rows may come before it, and a long contraction is a sum of shorter ones, of which the
reduction of one overlaps with the arithmetic of the next. Source: Unity (OSDI 2022, section 3); overlap as in Wang et
al. (ASPLOS 2023), who decompose a product for it.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph, Operand
from planner.rewrites.einsums import dot, free_dims, numbers, product
from planner.rewrites.elementwise import applied
from planner.rewrites.pattern import Call, Match, Number, Var, is_alone, maker, of_one_dtype, type_of
from planner.rewrites.reductions import axes_of, kept
from planner.rewrites.table import rewrite
from planner.trace.dtypes import is_inexact

SUM = Call("reduce_sum", (Call("dot_general", (Var("a"), Var("b")), "product"),), "sum")


def _operand_dims(match: Match) -> list[list[int]]:
    """For each operand of a product the dimensions that are summed later."""
    op = match.op("product")
    batch, free = len(numbers(op)[1][0]), [free_dims(op, k, len(match.shape("ab"[k]))) for k in (0, 1)]
    flat = [(0, d) for d in free[0]] + [(1, d) for d in free[1]]
    chosen = [flat[a - batch] for a in axes_of(match, "sum") if a >= batch]
    return [[d for k, d in chosen if k == side] for side in (0, 1)]


def _no_batch(match: Match) -> bool:
    """Whether rows or columns are summed: sums of operands are rounded as the sum of the product is."""
    op, axes = match.op("product"), axes_of(match, "sum")
    return match.is_private("product") and of_one_dtype(match.graph, op) and bool(axes) and \
        min(axes) >= len(numbers(op)[1][0])


def _mean_of_rows(match: Match) -> bool:
    """The same of a mean; integers are not divided, but cut off."""
    return _no_batch(match) and match.is_private("sum") and is_inexact(match.result("mean").dtype)


def _summed_first(match: Match, a: jax.Array, b: jax.Array, scale: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The product of operands of which some dimensions are summed before; what has been summed is scaled."""
    op, axes, arrays = match.op("product"), _operand_dims(match), [a, b]
    contracted, batch = (list(pair) for pair in numbers(op))
    for side in (0, 1):
        left = kept(arrays[side].ndim, tuple(axes[side]))
        if axes[side]:
            arrays[side] = jax.lax.reduce_sum(arrays[side], axes[side])
        contracted[side], batch[side] = (tuple(left.index(d) for d in of[side]) for of in (contracted, batch))
    side = 0 if axes[0] else 1
    arrays[side] = scale(arrays[side])
    return product(op.params, arrays[0], arrays[1], contracted, batch)


def _sum_of_product(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    b, s, k, n = rng.integers(2, 5, 4)
    return (lambda x, w, y: (jnp.sum(x @ w, 1), jnp.sum(jnp.einsum("bsk,btk->bst", x, y), (1, 2)))), \
        (rng.standard_normal((b, s, k)), rng.standard_normal((k, n)), rng.standard_normal((b, n, k)))


@rewrite("sum_before_product", "sum over rows of x·w -> (sum of x)·w", SUM, where=_no_batch, samples=_sum_of_product)
def sum_before_product(match: Match, a: jax.Array, b: jax.Array) -> jax.Array:
    """The product of less."""
    return _summed_first(match, a, b, lambda x: x)


def _mean_of_product(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    b, s, k, n = rng.integers(2, 5, 4)
    return (lambda x, w: jnp.mean(x @ w, 1)), (rng.standard_normal((b, s, k)), rng.standard_normal((k, n)))


@rewrite("mean_before_product", "mean over rows of x·w -> (mean of x)·w",
         Call("div|mul", (SUM, Number("count")), "mean"), where=_mean_of_rows,
         samples=_mean_of_product)
def mean_before_product(match: Match, a: jax.Array, b: jax.Array) -> jax.Array:
    """The product of less, of the size of one row."""
    return _summed_first(match, a, b, lambda x: applied(match.op("mean"), [x, np.asarray(match.numbers["count"],
                                                                                         x.dtype)]))


def _summed_operands(graph: Graph) -> Iterator[Match]:
    """Products of sums whose result is shorter than what is contracted: there is less to sum afterwards."""
    for n, op in enumerate(graph.ops):
        for side in (0, 1) if op.primitive == "dot_general" else ():
            m = maker(graph, op.operands[side], "reduce_sum")
            if m is None or not is_alone(graph, m):
                continue
            other = type_of(graph, op.operands[1 - side]).shape
            columns = math.prod(other[d] for d in free_dims(op, 1 - side, len(other)))
            if columns < math.prod(other[d] for d in numbers(op)[0][1 - side]):
                yield Match(graph, {"product": n, "sum": m},
                            {"x": graph.ops[m].operands[0], "other": op.operands[1 - side]}, {"side": side}, op.results)


def _product_of_sum(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    b, s, k = rng.integers(2, 5, 3)
    return (lambda x, w: (jnp.sum(x, 1) @ w, jnp.einsum("kn,kbs->nsb", w, jnp.sum(x, -2).T[..., None]))), \
        (rng.standard_normal((b, s, k + 2)), rng.standard_normal((k + 2, 2)))


@rewrite("sum_after_product", "(sum of x)·w -> sum over rows of x·w", _summed_operands, samples=_product_of_sum)
def sum_after_product(match: Match, x: jax.Array, other: jax.Array) -> jax.Array:
    """The sum of less, where a product makes rows shorter."""
    op, side, axes = match.op("product"), int(match.numbers["side"]), axes_of(match, "sum")
    left = kept(x.ndim, axes)
    contracted, batch = (list(pair) for pair in numbers(op))
    contracted[side], batch[side] = (tuple(left[d] for d in of[side]) for of in (contracted, batch))
    out = product(op.params, *((x, other) if side == 0 else (other, x)), contracted, batch)
    rows = [d for d in range(x.ndim) if d not in (*contracted[side], *batch[side])]
    start = len(batch[side]) + (0 if side == 0 else out.ndim - len(batch[side]) - len(rows))
    return jax.lax.reduce_sum(out, [start + rows.index(a) for a in axes])


LONG = 2
"""A contraction that many times as long as the product's shorter side is cut. [chosen: the partial products' results
are that much smaller than what they are made of]"""


def _long(match: Match) -> bool:
    """Whether a product's contraction is even and long, and is no part of another that was cut."""
    op, (place, length) = match.op("product"), _longest(match)
    shapes = match.shape("a"), match.shape("b")
    sides = [math.prod(shapes[k][d] for d in free_dims(op, k, len(shapes[k]))) for k in (0, 1)]
    cut = all(_is_cut(match.graph, o, dims[place]) for o, dims in zip(op.operands, numbers(op)[0], strict=True)
              if dims)
    return length % 2 == 0 and length >= max(2, LONG * min(sides)) and not cut


def _is_cut(graph: Graph, operand: Operand, dim: int) -> bool:
    """Whether an operand is a part of another along a dimension."""
    n = maker(graph, operand, "slice")
    return n is not None and type_of(graph, graph.ops[n].operands[0]).shape[dim] > type_of(graph, operand).shape[dim]


def _longest(match: Match) -> tuple[int, int]:
    """Which contracted dimension is longest, and its length."""
    lengths = [match.shape("a")[d] for d in numbers(match.op("product"))[0][0]] or [1]
    place = int(np.argmax(lengths))
    return place, lengths[place]


def _long_product(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    b, n = rng.integers(1, 4, 2)
    k = 2 * int(rng.integers(n, 6))
    return (lambda x, w: jnp.tanh(x @ w)), (rng.standard_normal((b, 3, k)), rng.standard_normal((k, n)))


@rewrite("split_contraction", "x·w -> x1·w1 + x2·w2, halves of a long contraction",
         Call("dot_general", (Var("a"), Var("b")), "product"), where=_long, samples=_long_product)
def split_contraction(match: Match, a: jax.Array, b: jax.Array) -> jax.Array:
    """Two partial products: the first can be reduced while the second is computed."""
    op, (place, length) = match.op("product"), _longest(match)
    left, right = (pair[place] for pair in numbers(op)[0])
    halves = [dot(op.params, jax.lax.slice_in_dim(a, start, start + length // 2, axis=left),
                  jax.lax.slice_in_dim(b, start, start + length // 2, axis=right)) for start in (0, length // 2)]
    return halves[0] + halves[1]
