"""Cuts moved before what computes what is cut: only what is read is computed.

Where a few rows of a result are read, as the last position of a prompt before the vocabulary, or one part of a fused
projection, the cut may come first. A cut is a slice, or the parts of a split that are read. Source: found by `planner
rewrites generate`, as cuts of every operator that it knows; TASO (SOSP 2019, table 2) has those of concatenations.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph, Op
from planner.rewrites.einsums import dot, free_dims, numbers
from planner.rewrites.elementwise import applied, is_elementwise, numbers_of, others, with_numbers
from planner.rewrites.pattern import Match, type_of
from planner.rewrites.reductions import REDUCTIONS, reduced
from planner.rewrites.table import rewrite
from planner.rewrites.transposes import permutation

Ends = tuple[int, ...]


@dataclass(frozen=True)
class Cut:
    """A part of an array: where it starts and ends in each dimension, and the value that it is."""

    starts: Ends
    limits: Ends
    result: int

    def of(self, x: jax.Array, dims: Sequence[int | None]) -> jax.Array:
        """The part of another array whose dimensions are those of the array that is cut; None: not cut."""
        starts = [0 if d is None else self.starts[d] for d in dims]
        limits = [n if d is None else self.limits[d] for d, n in zip(dims, x.shape, strict=True)]
        return x if tuple(limits) == x.shape and not any(starts) else jax.lax.slice(x, starts, limits)

    def shape(self) -> tuple[int, ...]:
        """Of the part."""
        return tuple(b - a for a, b in zip(self.starts, self.limits, strict=True))


def cuts_of(graph: Graph, op: Op) -> list[Cut]:
    """The parts that an operator cuts out of its operand, of which something is read; none if it is no cut."""
    shape = type_of(graph, op.operands[0]).shape if op.operands else ()
    if op.primitive == "slice":
        if set(op.params["strides"] or (1,)) != {1}:
            return []
        starts, limits = (tuple(int(n) for n in op.params[k]) for k in ("start_indices", "limit_indices"))
        return [Cut(starts, limits, op.results[0])]
    if op.primitive != "split":
        return []
    axis, found, start = int(op.params["axis"]), list[Cut](), 0
    outputs = {o.operand for o in graph.outputs}
    for size, result in zip(op.params["sizes"], op.results, strict=True):
        starts = tuple(start if d == axis else 0 for d in range(len(shape)))
        limits = tuple(start + int(size) if d == axis else n for d, n in enumerate(shape))
        if graph.consumers.get(result) or result in outputs:
            found.append(Cut(starts, limits, result))
        start += int(size)
    return found


def parted(x: jax.Array, sizes: Sequence[int], along: int) -> list[jax.Array]:
    """An array cut into parts of given sizes along a dimension."""
    ends = np.cumsum(sizes).tolist()
    return [jax.lax.slice_in_dim(x, end - size, end, axis=along) for size, end in zip(sizes, ends, strict=True)]


def cut_places(graph: Graph, fits: Callable[[Op], bool], *, with_numbers: bool = False) -> Iterator[Match]:
    """Operators of which nothing but cuts is read: `"op"`, then the operators that cut; operands by their place.

    Args:
      graph: where they are looked for.
      fits: which operators.
      with_numbers: whether operands that are the same number everywhere are numbers of the match.
    """
    outputs = {o.operand for o in graph.outputs}
    for n, op in enumerate(graph.ops):
        if len(op.results) != 1 or op.results[0] in outputs or not fits(op):
            continue
        readers = graph.consumers.get(op.results[0], ())
        each = [cuts_of(graph, graph.ops[r]) for r in readers]
        if not each or not all(each):
            continue
        constants = numbers_of(graph, op) if with_numbers else {}
        roots = tuple(cut.result for found in each for cut in found)
        read = {f"read{k}": sum(2**i for i, v in enumerate(graph.ops[r].results) if v in roots)
                for k, r in enumerate(readers)}  # which results of a split are made: they are the replacement's
        yield Match(graph, {"op": n, **{f"cut{k}": r for k, r in enumerate(readers)}}, others(op, constants),
                    {**constants, **read}, roots)


def _cuts(match: Match) -> list[Cut]:
    """The parts that are read of a matched operator's result."""
    return [cut for name in match.ops if name != "op" for cut in cuts_of(match.graph, match.op(name))]


def _less(match: Match) -> bool:
    """Whether less is read than there is."""
    return _read(match) < math.prod(match.result("op").shape)


def _no_more(match: Match) -> bool:
    """Whether no more is read than there is."""
    return _read(match) <= math.prod(match.result("op").shape)


def _read(match: Match) -> int:
    return sum(math.prod(cut.shape()) for cut in _cuts(match))


def cut_along(match: Match) -> tuple[int, list[int]] | None:
    """The one dimension that all cuts are along, and how long each is; None if they are along several, or longer than
    the whole together: what is read twice would be computed twice."""
    whole, cuts = match.result("op").shape, _cuts(match)
    dims = {d for cut in cuts for d, n in enumerate(cut.shape()) if n != whole[d]}
    if len(dims) != 1:
        return None
    (along,) = dims
    sizes = [cut.shape()[along] for cut in cuts]
    return (along, sizes) if sum(sizes) <= whole[along] else None


def for_each_cut(match: Match, make: Callable[[Cut], jax.Array]) -> tuple[jax.Array, ...]:
    """What is made of each part that is read."""
    return tuple(make(cut) for cut in _cuts(match))


def _cut_elementwise(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b, c = (int(n) for n in rng.integers(2, 5, 3))
    return (lambda x, y, z: (jnp.split(2.0 * x * y, [1, 2], 0)[1], jnp.tanh(x + z)[:, -1],
                             *jnp.split(x - z, [1], 1))), \
        (rng.standard_normal((a + 1, b, c)), rng.standard_normal((a + 1, b, c)), rng.standard_normal((a + 1, 1, c)))


@rewrite("cut_before_elementwise", "cut of f(x, ...) -> f(cut of x, ...)",
         lambda graph: cut_places(graph, is_elementwise, with_numbers=True), where=_no_more,
         samples=_cut_elementwise)
def cut_before_elementwise(match: Match, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Only the elements that are read; all of them where a bias stands between a fused projection and its parts."""
    op, whole = match.op("op"), match.result("op").shape

    def make(cut: Cut) -> jax.Array:
        parts = {name: cut.of(x, [d if n == whole[d] else None for d, n in enumerate(x.shape)]) if x.ndim else x
                 for name, x in zip(match.operands, arrays, strict=True)}
        return applied(op, with_numbers(match.graph, op, match.numbers, parts, cut.shape()))

    return for_each_cut(match, make)


def _cut_product(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    b, s, k, n = (int(d) for d in rng.integers(2, 5, 4))
    return (lambda x, w, y: ((x @ w)[:, -1], jnp.split(jnp.einsum("bsk,btk->bst", x, y), [1], 2)[0],
                             jnp.einsum("bsk,bkn->bsn", x, jnp.swapaxes(y, 1, 2))[1:])), \
        (rng.standard_normal((b, s, k)), rng.standard_normal((k, n)), rng.standard_normal((b, n, k)))


@rewrite("cut_before_product", "cut of x·w -> (cut of x)·(cut of w)",
         lambda graph: cut_places(graph, lambda op: op.primitive == "dot_general"), where=_less, samples=_cut_product)
def cut_before_product(match: Match, x: jax.Array, w: jax.Array) -> tuple[jax.Array, ...]:
    """Only the rows and columns that are read: the last position of a prompt before the vocabulary."""
    return cut_products(match, x, w)


def cut_products(match: Match, x: jax.Array, w: jax.Array) -> tuple[jax.Array, ...]:
    """A product for every cut of one, of parts of its operands."""
    op = match.op("op")
    batch, places = numbers(op)[1], 0
    dims: list[list[int | None]] = []
    for side, rank in ((0, x.ndim), (1, w.ndim)):
        free = free_dims(op, side, rank)
        at = {d: k for k, d in enumerate(batch[side])} | {d: len(batch[0]) + places + k for k, d in enumerate(free)}
        dims.append([at.get(d) for d in range(rank)])
        places += len(free)
    return for_each_cut(match, lambda cut: dot(op.params, cut.of(x, dims[0]), cut.of(w, dims[1])))


def _cut_reduction(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b, c = (int(n) for n in rng.integers(2, 5, 3))
    return (lambda x: (jnp.sum(x, 1)[:, 1:], jnp.split(jnp.max(x, (0, 2)), [1], 0)[0])), \
        (rng.standard_normal((a, b, c)),)


@rewrite("cut_before_reduction", "cut of a reduction of x -> reduction of a cut of x",
         lambda graph: cut_places(graph, lambda op: op.primitive in REDUCTIONS), where=_less, samples=_cut_reduction)
def cut_before_reduction(match: Match, x: jax.Array) -> tuple[jax.Array, ...]:
    """Only what is read is reduced."""
    axes = [int(a) for a in match.params("op")["axes"]]
    kept = [d for d in range(x.ndim) if d not in axes]
    dims = [kept.index(d) if d in kept else None for d in range(x.ndim)]
    return for_each_cut(match, lambda cut: reduced(match.op("op").primitive, cut.of(x, dims), axes))


def _cut_moved(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b, c = (int(n) for n in rng.integers(2, 5, 3))
    wide = lambda x: jax.lax.broadcast_in_dim(x, (a, 3, b, c), (0, 2, 3))  # noqa: E731
    return (lambda x: (jnp.transpose(x, (2, 0, 1))[1:], wide(x)[:, :2, 1:])), (rng.standard_normal((a, b, c)),)


@rewrite("cut_before_move", "cut of transpose(x) or broadcast(x) -> transpose or broadcast of a cut of x",
         lambda graph: cut_places(graph, lambda op: op.primitive in ("transpose", "broadcast_in_dim"),
                                  with_numbers=True), where=_less, samples=_cut_moved)
def cut_before_move(match: Match, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Only what is read is moved; a number that is broadcast is broadcast to less. (Gradients of what is broadcast are
    sums of fewer terms.)"""
    op, whole = match.op("op"), match.result("op").shape
    if not arrays:
        number = np.asarray(match.numbers["0"], jnp.dtype(match.result("op").dtype))
        return for_each_cut(match, lambda cut: jnp.full(cut.shape(), number, number.dtype))
    x, = arrays
    if op.primitive == "transpose":
        perm = permutation(match, "op")
        dims = [perm.index(d) for d in range(x.ndim)]
        return for_each_cut(match, lambda cut: jax.lax.transpose(cut.of(x, dims), perm))
    at = [int(d) for d in op.params["broadcast_dimensions"]]
    dims = [d if x.shape[k] == whole[d] else None for k, d in enumerate(at)]
    return for_each_cut(match, lambda cut: jax.lax.broadcast_in_dim(cut.of(x, dims), cut.shape(), at))


def _cut_cut(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b = (int(n) for n in rng.integers(3, 6, 2))
    return (lambda x, y: jnp.sin(x[1:, 1:][:1]) + jnp.cos(y[:2][1:, 1:])), \
        (rng.standard_normal((a, b)), rng.standard_normal((a, b)))


@rewrite("merge_cuts", "cut of a slice of x -> one slice of x",
         lambda graph: cut_places(graph, lambda op: op.primitive == "slice" and bool(cuts_of(graph, op))), where=_less,
         samples=_cut_cut, rounding=False)
def merge_cuts(match: Match, x: jax.Array) -> tuple[jax.Array, ...]:
    """One for two."""
    first = [int(n) for n in match.params("op")["start_indices"]]

    def make(cut: Cut) -> jax.Array:
        ends = ([a + b for a, b in zip(first, of, strict=True)] for of in (cut.starts, cut.limits))
        return jax.lax.slice(x, *ends)

    return for_each_cut(match, make)


def _cut_join(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b, c = (int(n) for n in rng.integers(2, 5, 3))
    return (lambda x, y, z, v, w: (jnp.concatenate([x, y, z], 1)[:, b - 1:b + 1], jnp.concatenate([v, y], 0)[1:, :1],
                                   jnp.split(jnp.concatenate([w, x], 1), [c], 1)[0])), \
        tuple(rng.standard_normal((a, n)) for n in (b, b, c, b, c))


@rewrite("cut_of_join", "cut of a concatenation -> concatenation of cuts of its parts, or a part",
         lambda graph: cut_places(graph, lambda op: op.primitive == "concatenate"), where=_less, samples=_cut_join,
         rounding=False)
def cut_of_join(match: Match, *parts: jax.Array) -> tuple[jax.Array, ...]:
    """Only the parts that are read."""
    along = int(match.params("op")["dimension"])

    def make(cut: Cut) -> jax.Array:
        kept, start = list[jax.Array](), 0
        for x in parts:
            ends = [max(0, cut.starts[along] - start), min(x.shape[along], cut.limits[along] - start)]
            if ends[0] < ends[1]:
                starts, limits = ([ends[k] if d == along else n for d, n in enumerate(of)]
                                  for k, of in enumerate((cut.starts, cut.limits)))
                kept.append(Cut(tuple(starts), tuple(limits), -1).of(x, range(x.ndim)))
            start += x.shape[along]
        return kept[0] if len(kept) == 1 else jnp.concatenate(kept, along)

    return for_each_cut(match, make)
