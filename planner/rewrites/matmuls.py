"""Products that share an operand, as one product and apart: query, key and value; gate and up.

One product reads the shared operand once and fills the device better; apart, each can be sharded its own way, and no
result has to be cut where no shard ends. Source: the merging of matrix products of TASO (SOSP 2019, table 3) and Unity
(OSDI 2022, figure 2).
"""

from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Op, Value
from planner.rewrites.cuts import cut_along, cut_places, cut_products, parted
from planner.rewrites.einsums import dot, free_dims, numbers
from planner.rewrites.pattern import Match, Siblings, type_of
from planner.rewrites.table import rewrite


def _fusible(shared: int) -> Callable[[Op, tuple[Value, ...]], Hashable | None]:
    """Of products that differ in the size of one free dimension of the other operand: the first it has."""

    def alike(op: Op, types: tuple[Value, ...]) -> Hashable | None:
        other = types[1 - shared]
        free = free_dims(op, 1 - shared, len(other.shape))
        if not free:
            return None
        rest = tuple(n for d, n in enumerate(other.shape) if d != free[0])
        p = op.params
        return p["dimension_numbers"], str(p["precision"]), str(p["preferred_element_type"]), rest, other.dtype

    return alike


def _place(match: Match, shared: int) -> tuple[int, int]:
    """The free dimension that fused operands are joined along, and where it is in the result."""
    op = match.op("0")
    (contracted, _), (batch, _) = numbers(op)
    ranks = [len(type_of(match.graph, o).shape) for o in op.operands]
    along = free_dims(op, 1 - shared, ranks[1 - shared])[0]
    if shared == 1:
        return along, len(batch)
    return along, ranks[0] - len(contracted)


def _fused(match: Match, shared: int, arrays: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    along, at = _place(match, shared)
    joined = jnp.concatenate(arrays[1:], along)
    operands = (arrays[0], joined) if shared == 0 else (joined, arrays[0])
    return tuple(parted(dot(match.params("0"), *operands), [array.shape[along] for array in arrays[1:]], at))


def _projections(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    b, k, *n = rng.integers(1, 6, 5)
    return (lambda x, *w: tuple(jnp.tanh(x @ a) for a in w)), \
        (rng.standard_normal((b, 3, k)), *(rng.standard_normal((k, m)) for m in n))


def _rows(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    b, k, *n = rng.integers(1, 6, 5)
    return (lambda x, *a: tuple(jnp.einsum("bmk,bkn->bmn", y, x) for y in a)), \
        (rng.standard_normal((b, k, 3)), *(rng.standard_normal((b, m, k)) for m in n))


@rewrite("fuse_matmuls", "x·a, x·b -> x·[a b], cut", Siblings("dot_general", 0, _fusible(0)), samples=_projections)
def fuse_matmuls(match: Match, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """One product for all that share their left operand."""
    return _fused(match, 0, arrays)


@rewrite("fuse_matmuls_of_rows", "a·x, b·x -> [a; b]·x, cut", Siblings("dot_general", 1, _fusible(1)), samples=_rows)
def fuse_matmuls_of_rows(match: Match, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """One product for all that share their right operand."""
    return _fused(match, 1, arrays)


def _is_parted(match: Match) -> bool:
    """Whether a product is read in at least two cuts along one dimension of its rows or columns, each part once."""
    found, whole = cut_along(match), match.result("op").shape
    return found is not None and found[0] >= len(numbers(match.op("op"))[1][0]) and len(found[1]) > 1 and \
        sum(found[1]) == whole[found[0]]


def _fused_projection(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    b, k, n = rng.integers(1, 6, 3)
    return (lambda x, w, y: (*(jnp.sin(z) for z in jnp.split(x @ w, 3, axis=-1)), (y := y @ w)[:, :1], y[:, 1:])), \
        (rng.standard_normal((b, 3, k)), rng.standard_normal((k, 3 * n)), rng.standard_normal((b, 3, k)))


@rewrite("split_matmul", "cuts of x·w -> x·a, x·b of cuts of w, or a·w, b·w of cuts of x",
         lambda graph: cut_places(graph, lambda op: op.primitive == "dot_general"), where=_is_parted,
         samples=_fused_projection)
def split_matmul(match: Match, left: jax.Array, right: jax.Array) -> tuple[jax.Array, ...]:
    """A product for every part, each of which may be sharded in its own way."""
    return cut_products(match, left, right)
