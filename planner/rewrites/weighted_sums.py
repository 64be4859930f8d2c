"""Sums of products of what is broadcast, as products; products with what is broadcast, as smaller ones.

Code that multiplies arrays which were broadcast against each other, and sums, writes every single product; a matrix
product does not. A product with an operand that is the same along what is contracted is a sum, and one that is the same
for all columns has one column. Source: found by `planner rewrites generate` (`(x * u[:, None]).sum(0) = u @ x`,
`x @ v[None, :] = x.sum(1) * v`, `x @ u[:, None] = (x @ u)[:, None]`).
"""

from collections.abc import Callable, Iterator
from string import ascii_letters
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph, Operand
from planner.rewrites.broadcasts import repeated
from planner.rewrites.einsums import Letters, einsum, free_dims, numbers, product_letters
from planner.rewrites.pattern import Call, Match, Var, is_alone, maker, number_of, of_one_dtype
from planner.rewrites.reductions import axes_of
from planner.rewrites.table import rewrite


def _sum_dims(match: Match) -> tuple[list[int], list[int]]:
    """The dimensions of the elementwise product that its operands fill."""
    shapes = match.shape("x"), match.shape("w")
    whole = match.result("product").shape
    first, second = ([d for d, n in enumerate(of) if n == whole[d] > 1] for of in shapes)
    return first, second


def _is_product_of_broadcast(match: Match) -> bool:
    """Whether both operands vary along all that is summed, and one of them does not along something that stays."""
    whole, axes = match.result("product").shape, axes_of(match, "sum")
    if not len(match.shape("x")) == len(match.shape("w")) == len(whole) or not match.is_private("product"):
        return False
    first, second = _sum_dims(match)
    summed = [a for a in axes if whole[a] > 1]
    apart = set(first) ^ set(second)
    alike = match.type("x").dtype == match.type("w").dtype == match.result("sum").dtype
    floating = jnp.issubdtype(jnp.dtype(match.result("sum").dtype), jnp.floating)
    return alike and floating and bool(summed) and bool(apart) and all(a in first and a in second for a in summed)


def _weighted(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    b, m, k, n = (int(d) for d in rng.integers(2, 5, 4))
    return (lambda x, w, u, v: (jnp.sum(x[:, :, :, None] * w, 2), jnp.sum(u[..., None] * x, 1),
                                jnp.sum(v * x, (1, 2), keepdims=True))), \
        (rng.standard_normal((b, m, k)), rng.standard_normal((k, n)), rng.standard_normal((b, m)),
         rng.standard_normal((m, k)))


@rewrite("weighted_sum_as_product", "sum(x*w), x or w broadcast -> x·w",
         Call("reduce_sum", (Call("mul", (Var("x"), Var("w")), "product"),), "sum"), where=_is_product_of_broadcast,
         samples=_weighted)
def weighted_sum_as_product(match: Match, x: jax.Array, w: jax.Array) -> jax.Array:
    """A matrix product, of the precision of a sum: no single product is written."""
    axes, dims = axes_of(match, "sum"), _sum_dims(match)
    letters = [tuple(ascii_letters[d] for d in of) for of in dims]
    arrays = [a.reshape([a.shape[d] for d in of]) for a, of in zip((x, w), dims, strict=True)]
    result = tuple(ascii_letters[d] for d in range(x.ndim) if d not in axes and d in {*dims[0], *dims[1]})
    like = {"precision": jax.lax.Precision.HIGHEST, "preferred_element_type": x.dtype}
    return einsum(like, letters, result, *arrays).reshape(match.result("sum").shape)


def _repeated_operands(graph: Graph) -> Iterator[Match]:
    """Products of which one operand was broadcast along something that is contracted, or along its rows or columns."""
    for n, op in enumerate(graph.ops):
        for side in (0, 1) if op.primitive == "dot_general" else ():
            m = maker(graph, op.operands[side], "broadcast_in_dim")
            if m is None or not is_alone(graph, m) or number_of(graph, op.operands[side]) is not None:
                continue
            missing, contracted = _missing(graph, m), numbers(op)[0][side]
            if not of_one_dtype(graph, op) and not missing.isdisjoint(contracted):
                continue  # a sum of an operand may need the digits of the result
            if missing and missing.isdisjoint(numbers(op)[1][side]):
                operands: dict[str, Operand] = {"x": graph.ops[m].operands[0], "other": op.operands[1 - side]}
                yield Match(graph, {"product": n, "move": m}, operands, {"side": side}, op.results)


def _missing(graph: Graph, n: int) -> set[int]:
    """Dimensions of a broadcast's result along which it repeats itself."""
    shape = graph.values[graph.ops[n].results[0]].shape
    return {d for d in repeated(graph, n) if shape[d] > 1}


def _repeated(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    b, m, k, n = (int(d) for d in rng.integers(2, 5, 4))
    return (lambda x, u, v: (x @ jnp.broadcast_to(u[:, None], (k, n)), jnp.broadcast_to(v[:, None], (m, k)) @ x.mT,
                             x @ jnp.broadcast_to(v, (k, m)))), \
        (rng.standard_normal((b, m, k)), rng.standard_normal(k), rng.standard_normal(m))


@rewrite("product_with_repeated", "x·broadcast(w) -> (sum of x)·w, or broadcast(x·w)", _repeated_operands,
         samples=_repeated)
def product_with_repeated(match: Match, x: jax.Array, other: jax.Array) -> jax.Array:
    """The product of what is repeated, once: what is contracted with it is summed, its rows are copied."""
    op, side = match.op("product"), int(match.numbers["side"])
    missing, at = _missing(match.graph, match.ops["move"]), match.params("move")["broadcast_dimensions"]
    rank = len(match.result("move").shape)
    left_rank, right_rank = (rank, other.ndim) if side == 0 else (other.ndim, rank)
    left = tuple(ascii_letters[:left_rank])
    right, out = product_letters(op, left, right_rank, "".join(left))
    mine, theirs = (left, right) if side == 0 else (right, left)
    gone = {mine[d] for d in missing}
    shape = match.result("product").shape
    there = [k for k, d in enumerate(at) if int(d) not in missing and mine[int(d)] not in _ones(mine, match)]
    small = x.reshape([x.shape[k] for k in there])
    summed = [d for d, letter in enumerate(theirs) if letter in gone]
    beside = jax.lax.reduce_sum(other, summed) if summed else other
    of: list[Letters] = [tuple(mine[int(at[k])] for k in there), tuple(c for c in theirs if c not in gone)]
    kept = tuple(c for c in out if c in {*of[0], *of[1]})
    arrays = (small, beside) if side == 0 else (beside, small)
    result = einsum(op.params, of if side == 0 else of[::-1], kept, *arrays)
    return jax.lax.broadcast_in_dim(result, shape, [d for d, c in enumerate(out) if c in kept])


def _ones(letters: Letters, match: Match) -> set[str]:
    """Letters of dimensions of size 1 of the broadcast operand that nothing else has: they may be left out."""
    op, side, shape = match.op("product"), int(match.numbers["side"]), match.result("move").shape
    free = free_dims(op, side, len(shape))
    return {letters[d] for d in free if shape[d] == 1}
