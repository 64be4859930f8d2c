"""Reshapes before and after matrix products: rows that were flattened, heads that were merged into columns.

`(b·s, d)·(d, n)` is `(b, s, d)·(d, n)`, in which batch and sequence can be sharded apart; a projection whose columns
are reshaped to heads afterwards is one to heads at once. Source: as `reshapes.py`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph
from planner.rewrites.einsums import free_dims, numbers, product
from planner.rewrites.pattern import Call, Match, Var
from planner.rewrites.reshapes import RESHAPES, Groups, groups, is_reshape, reshape_of, split_sizes
from planner.rewrites.table import rewrite

SIDES = ("left", "right")


def _reshaped_operands(graph: Graph) -> Iterator[Match]:
    """Products of which one operand was reshaped, in rows or columns, or by merging what is contracted or batch."""
    for n, op in enumerate(graph.ops):
        for side in (0, 1) if op.primitive == "dot_general" else ():
            m = reshape_of(graph, op.operands[side])
            if m is None or not isinstance(op.operands[side], int):
                continue
            given = [graph.ops[m].operands[0] if k == side else o for k, o in enumerate(op.operands)]
            match = Match(graph, {"product": n, SIDES[side]: m}, dict(zip("ab", given, strict=True)), {}, op.results)
            if _whole(match, side):
                yield match


def _pairs(match: Match, side: int) -> Groups:
    return groups(match.shape("ab"[side]), match.result(SIDES[side]).shape)


def _whole(match: Match, side: int) -> bool:
    """Whether every set of dimensions is rows alone, or one dimension that is contracted or batch."""
    free = set(free_dims(match.op("product"), side, len(match.result(SIDES[side]).shape)))
    return all(free.issuperset(after) or (len(after) == 1 and before) for before, after in _pairs(match, side))


def _flattened(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b, c, d = (int(n) for n in rng.integers(2, 5, 4))
    return (lambda x, w, y: (jnp.reshape(x, (a * b, c)) @ w, jnp.reshape(x, (a, b * c)) @ y,
                             jnp.einsum("nk,nkd->nd", jnp.reshape(x, (a * b, c)), jnp.stack([w] * (a * b))))), \
        (rng.standard_normal((a, b, c)), rng.standard_normal((c, d)), rng.standard_normal((b * c, d)))


@rewrite("reshape_after_product", "reshape(x)·w -> reshape(x·w), w reshaped where contracted dimensions were merged",
         _reshaped_operands, samples=_flattened)
def reshape_after_product(match: Match, a: jax.Array, b: jax.Array) -> jax.Array:
    """The product sees the dimensions apart."""
    op = match.op("product")
    side = 0 if "left" in match.ops else 1
    arrays, own, other = [a, b], [list(of) for of in zip(*numbers(op), strict=True)], 1 - side
    # `own[k]` = (contracted, batch) of operand k
    was = {after[0]: before for before, after in _pairs(match, side) if len(after) == 1}
    sizes = {d: [arrays[side].shape[x] for x in was[d]] for of in own[side] for d in of}
    partner = {e: sizes[d] for mine, theirs in zip(own[side], own[other], strict=True)
               for d, e in zip(mine, theirs, strict=True)}
    shape, places = split_sizes(arrays[other].shape, list(partner), list(partner.values()))
    arrays[other] = jax.lax.reshape(arrays[other], shape)
    new = [[[x for d in of for x in (was[d] if k == side else places[d])] for of in own[k]] for k in (0, 1)]
    out = product(op.params, arrays[0], arrays[1], (new[0][0], new[1][0]), (new[0][1], new[1][1]))
    return jax.lax.reshape(out, match.result("product").shape)


OUTER = Call(RESHAPES, (Call("dot_general", (Var("left"), Var("right")), "product"),), "move")


def _reshaped_side(match: Match) -> tuple[int, list[tuple[list[int], list[int]]]] | None:
    """Which operand's rows or columns a reshape of the product is about, and which dimensions become which sizes."""
    op, after = match.op("product"), match.result("move").shape
    batch = len(numbers(op)[1][0])
    free = [free_dims(op, k, len(match.shape(name))) for k, name in enumerate(SIDES)]
    starts = (batch, batch + len(free[0]), batch + len(free[0]) + len(free[1]))
    found: list[tuple[int, list[int], list[int]]] = []
    for mine, theirs in groups(match.result("product").shape, after):
        if len(mine) == len(theirs) == 1:
            continue
        side = next((k for k in (0, 1) if mine and starts[k] <= mine[0] and mine[-1] < starts[k + 1]), None)
        if side is None:
            return None
        dims = [free[side][d - starts[side]] for d in mine]
        if dims != list(range(dims[0], dims[0] + len(dims))):
            return None
        found.append((side, dims, [after[d] for d in theirs]))
    if len({side for side, _, _ in found}) != 1:
        return None
    return found[0][0], [(dims, sizes) for _, dims, sizes in found]


def _one_side(match: Match) -> bool:
    return match.is_private("product") and is_reshape(match.op("move")) and _reshaped_side(match) is not None


def _headed(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    b, s, d, h, k = (int(n) for n in rng.integers(2, 5, 5))
    return (lambda x, w: (jnp.reshape(x @ w, (b, s, h, k)), jnp.reshape(x @ w, (b * s, h * k)))), \
        (rng.standard_normal((b, s, d)), rng.standard_normal((d, h * k)))


@rewrite("reshape_before_product", "reshape(x·w) -> reshape(x)·w, or x·reshape(w)", OUTER, where=_one_side,
         samples=_headed)
def reshape_before_product(match: Match, left: jax.Array, right: jax.Array) -> jax.Array:
    """The operand is reshaped whose rows or columns they are."""
    side, changes = _reshaped_side(match) or (0, [])
    op, array = match.op("product"), (left, right)[side]
    shape: list[int] = []
    places: dict[int, int] = {}
    start = {dims[0]: sizes for dims, sizes in changes}
    gone = {d for dims, _ in changes for d in dims}
    for d, n in enumerate(array.shape):
        if d not in gone:
            places[d] = len(shape)
        shape += start.get(d, [] if d in gone else [n])
    contracted, batch = (list(pair) for pair in numbers(op))
    contracted[side], batch[side] = (tuple(places[d] for d in of[side]) for of in (contracted, batch))
    array = jax.lax.reshape(array, shape)
    left, right = (array, right) if side == 0 else (left, array)
    return product(op.params, left, right, contracted, batch)
