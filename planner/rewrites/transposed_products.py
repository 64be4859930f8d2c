"""Transposes before and after matrix products, taken into their dimension numbers or to the smaller side.

Which operand of a product comes first, and in which order its dimensions are, is a choice of whoever wrote it, as the
order of an einsum's letters: the one that needs no transposes is as good. Source: the einsum of GSPMD (arXiv
2105.04663, section 3), whose dimensions have no order.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph
from planner.rewrites.einsums import free_dims, numbers, product
from planner.rewrites.pattern import Call, Match, Var, is_alone, maker
from planner.rewrites.table import rewrite
from planner.rewrites.transposes import inverse, permutation

OUTER = Call("transpose", (Call("dot_general", (Var("left"), Var("right")), "product"),), "move")


def _transposed_operands(graph: Graph) -> Iterator[Match]:
    """Products of which one operand is a transpose."""
    for n, op in enumerate(graph.ops):
        for side in (0, 1) if op.primitive == "dot_general" else ():
            m = maker(graph, op.operands[side], "transpose")
            if m is not None and is_alone(graph, m):
                given = [graph.ops[m].operands[0] if k == side else o for k, o in enumerate(op.operands)]
                yield Match(graph, {"product": n, ("left", "right")[side]: m}, dict(zip("ab", given, strict=True)), {},
                            op.results)


def _operand_moved(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    b, h, s, k, n = rng.integers(1, 5, 5)
    return (lambda x, w, y: (jnp.einsum("bshk,hkn->bsn", jnp.transpose(x, (0, 3, 1, 2)), w),
                             jnp.einsum("nm,ms->ns", y, jnp.transpose(y, (1, 0))))), \
        (rng.standard_normal((b, h, k, s)), rng.standard_normal((h, k, n)), rng.standard_normal((n, k)))


@rewrite("transpose_into_product", "transpose(x)·w -> x·w with other dimension numbers", _transposed_operands,
         samples=_operand_moved)
def transpose_into_product(match: Match, a: jax.Array, b: jax.Array) -> jax.Array:
    """No transpose before the product; one after it where the order of rows or columns has changed."""
    op = match.op("product")
    side = 0 if "left" in match.ops else 1
    perm = permutation(match, ("left", "right")[side])
    contracted, batch = ([list(of) for of in pair] for pair in numbers(op))
    free = free_dims(op, side, (a, b)[side].ndim)
    contracted[side], batch[side] = ([perm[d] for d in of[side]] for of in (contracted, batch))
    moved = [perm[d] for d in free]
    out = product(op.params, a, b, contracted, batch)
    start = len(batch[0]) + (0 if side == 0 else out.ndim - len(batch[0]) - len(free))
    order = list(range(out.ndim))
    order[start:start + len(free)] = [start + sorted(moved).index(d) for d in moved]
    return jax.lax.transpose(out, order)


def _swapped(match: Match) -> list[int]:
    """The transpose that is left if the operands of a product change places: result dimension -> dimension of the
    swapped product."""
    op = match.op("product")
    batch = len(numbers(op)[1][0])
    left, right = (len(free_dims(op, side, len(match.shape(name)))) for side, name in enumerate(("left", "right")))
    place = [*range(batch), *(batch + right + d for d in range(left)), *(batch + d for d in range(right))]
    return [place[p] for p in permutation(match, "move")]


def breaks(perm: Sequence[int]) -> int:
    """Neighbours that a transpose parts: 0 for none."""
    return sum(b != a + 1 for a, b in zip((-1, *perm), (*perm, len(perm)), strict=True))


def _swap_helps(match: Match) -> bool:
    one_way = isinstance(match.params("product")["precision"], jax.lax.DotAlgorithm)  # it names a dtype for each side
    return match.is_private("product") and not one_way and \
        breaks(_swapped(match)) < breaks(permutation(match, "move"))


def _swap(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    b, s, d, h, k = rng.integers(2, 5, 5)
    return (lambda x, w: (jnp.transpose(jnp.einsum("bsd,dhk->bshk", x, w), (2, 3, 0, 1)),
                          jnp.transpose(jnp.einsum("bsd,btd->bst", x, x), (0, 2, 1)))), \
        (rng.standard_normal((b, s, d)), rng.standard_normal((d, h, k)))


@rewrite("swap_operands", "transpose(x·w) -> w·x, with less to transpose", OUTER, where=_swap_helps, samples=_swap)
def swap_operands(match: Match, left: jax.Array, right: jax.Array) -> jax.Array:
    """The other operand first."""
    (contracted, batch), params = numbers(match.op("product")), match.params("product")
    precision = params["precision"]
    turned = {**params, "precision": precision[::-1] if isinstance(precision, tuple) else precision}
    out = product(turned, right, left, contracted[::-1], batch[::-1])
    return jax.lax.transpose(out, _swapped(match))


def _parts(match: Match) -> tuple[int, int]:
    """Where in the result of a product its rows and its columns start."""
    op = match.op("product")
    batch = len(numbers(op)[1][0])
    return batch, batch + len(free_dims(op, 0, len(match.shape("left"))))


def _one_operand_moves(match: Match) -> bool:
    """Whether a transpose keeps batch dimensions, rows and columns apart, and moves rows, columns or neither."""
    perm, (rows, columns) = permutation(match, "move"), _parts(match)
    apart = set(perm[:rows]) == set(range(rows)) and set(perm[rows:columns]) == set(range(rows, columns))
    moved = [list(part) != sorted(part) for part in (perm[rows:columns], perm[columns:])]
    return apart and sum(moved) <= 1 and match.is_private("product")


def _rows_moved(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    b, s, d, h, k = rng.integers(2, 5, 5)
    return (lambda x, w, y: (jnp.transpose(jnp.einsum("bsd,dhk->bshk", x, w), (1, 0, 2, 3)),
                             jnp.transpose(jnp.einsum("bshk,bhtk->bhst", y, y.transpose(0, 2, 1, 3)), (1, 0, 2, 3)))), \
        (rng.standard_normal((b, s, d)), rng.standard_normal((d, h, k)), rng.standard_normal((b, s, h, k)))


@rewrite("transpose_before_product", "transpose(x·w) -> transpose(x)·w", OUTER, where=_one_operand_moves,
         samples=_rows_moved)
def transpose_before_product(match: Match, left: jax.Array, right: jax.Array) -> jax.Array:
    """What is transposed is an operand, or nothing where only batch dimensions change places."""
    op, perm, (rows, columns) = match.op("product"), permutation(match, "move"), _parts(match)
    contracted, batch = ([list(of) for of in pair] for pair in numbers(op))
    for side, (part, start) in enumerate(((perm[rows:columns], rows), (perm[columns:], columns))):
        array = (left, right)[side]
        free = free_dims(op, side, array.ndim)
        order = list(range(array.ndim))
        for d, p in zip(free, part, strict=True):
            order[d] = free[p - start]
        contracted[side], batch[side] = ([inverse(order)[d] for d in of[side]] for of in (contracted, batch))
        left, right = (jax.lax.transpose(array, order), right) if side == 0 else (left, jax.lax.transpose(array, order))
    batch = [[of[p] for p in perm[:rows]] for of in batch]
    return product(op.params, left, right, contracted, batch)
