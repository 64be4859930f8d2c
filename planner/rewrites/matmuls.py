"""Products that share an operand, as one product and apart: query, key and value; gate and up.

One product reads the shared operand once and fills the device better; apart, each can be sharded its own way, and no
result has to be cut where no shard ends. Source: the merging of matrix products of TASO (SOSP 2019, table 3) and Unity
(OSDI 2022, figure 2).
"""

from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph, Op, Value
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
    out, start, parts = dot(match.params("0"), *operands), 0, []
    for array in arrays[1:]:
        parts.append(jax.lax.slice_in_dim(out, start, start + array.shape[along], axis=at))
        start += array.shape[along]
    return tuple(parts)


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


def _cut_products(graph: Graph) -> Iterator[Match]:
    """Products whose results are only read in slices, or by one split, along a free dimension of the right operand."""
    for n, op in enumerate(graph.ops):
        if op.primitive != "dot_general" or op.results[0] in {o.operand for o in graph.outputs}:
            continue
        readers = graph.consumers.get(op.results[0], ())
        cuts = [cut_of(graph.ops[r], graph.values[op.results[0]].shape) for r in readers]
        if not cuts or any(c is None for c in cuts) or len({c[0] for c in cuts if c}) != 1:
            continue
        right = type_of(graph, op.operands[1])
        free = free_dims(op, 1, len(right.shape))
        at = len(graph.values[op.results[0]].shape) - len(free)
        if cuts[0] is None or cuts[0][0] < at or sum(len(c[1]) for c in cuts if c) < 2:
            continue
        ops = {"product": n, **{f"cut{k}": r for k, r in enumerate(readers)}}
        roots = tuple(v for r in readers for v in graph.ops[r].results)
        yield Match(graph, ops, {"left": op.operands[0], "right": op.operands[1]}, {}, roots)


def cut_of(op: Op, shape: tuple[int, ...]) -> tuple[int, tuple[tuple[int, int], ...]] | None:
    """The dimension that a slice or split cuts, and from where to where."""
    if op.primitive == "split":
        ends = np.cumsum(op.params["sizes"])
        return op.params["axis"], tuple(zip((0, *ends[:-1].tolist()), ends.tolist(), strict=True))
    if op.primitive != "slice" or op.params["strides"] is not None:
        return None
    starts, limits = op.params["start_indices"], op.params["limit_indices"]
    cut = [d for d, (a, b) in enumerate(zip(starts, limits, strict=True)) if (a, b) != (0, shape[d])]
    return (cut[0], ((starts[cut[0]], limits[cut[0]]),)) if len(cut) == 1 else None


def _fused_projection(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    b, k, n = rng.integers(1, 6, 3)
    return (lambda x, w: tuple(jnp.sin(y) for y in jnp.split(x @ w, 3, axis=-1))), \
        (rng.standard_normal((b, 3, k)), rng.standard_normal((k, 3 * n)))


@rewrite("split_matmul", "cuts of x·w -> x·a, x·b of cuts of w", _cut_products, samples=_fused_projection)
def split_matmul(match: Match, left: jax.Array, right: jax.Array) -> tuple[jax.Array, ...]:
    """A product for every part that is read."""
    op, shape = match.op("product"), match.result("product").shape
    free = free_dims(op, 1, right.ndim)
    parts: list[jax.Array] = []
    for name in match.ops:
        cut = None if name == "product" else cut_of(match.op(name), shape)
        for start, end in cut[1] if cut else ():
            along = free[cut[0] - (len(shape) - len(free))] if cut else 0
            parts.append(dot(op.params, left, jax.lax.slice_in_dim(right, start, end, axis=along)))
    return tuple(parts)
