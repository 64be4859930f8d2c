"""Reshapes moved past what does not mind, merged, and dropped where one undoes another.

A reshape that merges dimensions hides them from whoever would shard one of them: rows of a flattened batch, heads in a
projection's columns. What is said of reshapes holds for `squeeze` too. Source: TASO (SOSP 2019, table
2); which dimensions belong together is what GSPMD (arXiv 2105.04663, section 3.5) propagates shardings through.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph, Op, Operand
from planner.rewrites.elementwise import applied, is_elementwise, numbers_of, others, with_numbers
from planner.rewrites.pattern import Call, Match, Var, is_alone, type_of
from planner.rewrites.reductions import SUMS, reduced
from planner.rewrites.table import rewrite

Shape = tuple[int, ...]
Groups = tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]

RESHAPES = "reshape|squeeze"


def groups(before: Shape, after: Shape) -> Groups:
    """Which dimensions become which by a reshape: the smallest sets whose sizes multiply to the same, in order.

    Source: `jax.lax.reshape` keeps elements in row-major order.
    """
    if 0 in before or 0 in after:
        return ((tuple(range(len(before))), tuple(range(len(after)))),)
    found: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        start, end, m, n = i, j, 1, 1
        while True:
            if (m <= n and i < len(before)) or j == len(after):
                m, i = m * before[i], i + 1
            else:
                n, j = n * after[j], j + 1
            if m == n and i > start and j > end:
                break
            if i == len(before) and j == len(after):
                break
        found.append((tuple(range(start, i)), tuple(range(end, j))))
    (*rest, last) = found or [((), ())]
    if rest and not (last[0] and last[1]):  # trailing dimensions of size 1 go with those before them
        rest[-1] = (rest[-1][0] + last[0], rest[-1][1] + last[1])
        return tuple(rest)
    return tuple(found)


def is_reshape(op: Op) -> bool:
    """Whether an operator keeps elements in row-major order: reshapes that read them in another are none."""
    return op.primitive == "squeeze" or (op.primitive == "reshape" and op.params["dimensions"] is None)


def reshape_of(graph: Graph, operand: Operand) -> int | None:
    """The operator that reshaped an operand, and nothing else reads."""
    n = graph.producers.get(operand) if isinstance(operand, int) else None
    return n if n is not None and is_reshape(graph.ops[n]) and is_alone(graph, n) else None


def _two(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b, c = (int(n) for n in rng.integers(2, 5, 3))
    return (lambda x: (jnp.sin(x.reshape(a, b * c).reshape(a * b, 1, c)), jnp.cos(x.reshape(a * b, c)[None][0]),
                       x.reshape(-1).reshape(a, b, c))), (rng.standard_normal((a, b, c)),)


def _in_order(match: Match) -> bool:
    return match.is_private("inner") and is_reshape(match.op("inner")) and is_reshape(match.op("outer"))


@rewrite("merge_reshapes", "reshape of reshape(x) -> one reshape, or x",
         Call(RESHAPES, (Call(RESHAPES, (Var("x"),), "inner"),), "outer"), where=_in_order, samples=_two,
         rounding=False)
def merge_reshapes(match: Match, x: jax.Array) -> jax.Array:
    """One for two, or none if they undo each other."""
    return jax.lax.reshape(x, match.result("outer").shape)


def _read_reshaped(graph: Graph) -> Iterator[Match]:
    """Elementwise operators that read results of reshapes from one shape, and beside them only numbers."""
    for n, op in enumerate(graph.ops):
        if not is_elementwise(op) or len(op.results) != 1:
            continue
        numbers = numbers_of(graph, op)
        operands = others(op, numbers)
        moves = {k: reshape_of(graph, o) for k, o in operands.items()}
        if not operands or None in moves.values():
            continue
        inner = {k: graph.ops[m].operands[0] for k, m in moves.items() if m is not None}
        if len({(type_of(graph, o).shape, type_of(graph, operands[k]).shape) for k, o in inner.items()}) == 1:
            ops = {"op": n, **{f"move{k}": m for k, m in moves.items() if m is not None}}
            yield Match(graph, ops, inner, numbers, op.results)


def _reshaped_after(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b, c = (int(n) for n in rng.integers(2, 5, 3))
    return (lambda x, y: (jnp.reshape(x, (a * b, c)) * jnp.reshape(y, (a * b, c)), jnp.tanh(x.reshape(a, b * c)))), \
        (rng.standard_normal((a, b, c)), rng.standard_normal((a, b, c)))


@rewrite("reshape_after_elementwise", "f(reshape(x), ...) -> reshape(f(x, ...))", _read_reshaped,
         samples=_reshaped_after)
def reshape_after_elementwise(match: Match, *arrays: jax.Array) -> jax.Array:
    """The elementwise operator first."""
    op, given = match.op("op"), dict(zip(match.operands, arrays, strict=True))
    whole = with_numbers(match.graph, op, match.numbers, given, arrays[0].shape)
    return jax.lax.reshape(applied(op, whole), match.result("op").shape)


def _elementwise_reshaped(graph: Graph) -> Iterator[Match]:
    """Reshapes of what elementwise operators make of one operand and numbers."""
    for n, op in enumerate(graph.ops):
        if not is_reshape(op) or len(op.operands) != 1 or not isinstance(op.operands[0], int):
            continue
        m = graph.producers.get(op.operands[0], -1)
        if m < 0 or not is_elementwise(graph.ops[m]) or not is_alone(graph, m):
            continue
        numbers = numbers_of(graph, graph.ops[m])
        operands = others(graph.ops[m], numbers)
        if len(operands) == 1:
            yield Match(graph, {"move": n, "op": m}, operands, numbers, op.results)


def _reshaped_before(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b, c = (int(n) for n in rng.integers(2, 5, 3))
    return (lambda x: jnp.reshape(jnp.tanh(x), (a * b, c)) + jnp.reshape(2.0 * x, (a * b, c))), \
        (rng.standard_normal((a, b, c)),)


@rewrite("reshape_before_elementwise", "reshape(f(x)) -> f(reshape(x))", _elementwise_reshaped,
         samples=_reshaped_before)
def reshape_before_elementwise(match: Match, x: jax.Array) -> jax.Array:
    """The reshape first."""
    op, shape = match.op("op"), match.result("move").shape
    (place,) = match.operands
    return applied(op, with_numbers(match.graph, op, match.numbers, {place: jax.lax.reshape(x, shape)}, shape))


def _reduced_groups(match: Match) -> list[int] | None:
    """The dimensions of what was reshaped that are reduced; None if only parts of some are."""
    axes = {int(a) for a in match.params("sum")["axes"]}
    found: list[int] = []
    for before, after in groups(match.shape("x"), match.result("move").shape):
        if axes.isdisjoint(after):
            continue
        if not axes.issuperset(after):
            return None
        found += before
    return found


def _whole_groups(match: Match) -> bool:
    return match.is_private("move") and is_reshape(match.op("move")) and bool(_reduced_groups(match))


def _reduced_reshape(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b, c = (int(n) for n in rng.integers(2, 5, 3))
    return (lambda x: (jnp.sum(jnp.reshape(x, (a * b, c)), 0), jnp.max(jnp.reshape(x, (a, b * c)), 0))), \
        (rng.standard_normal((a, b, c)),)


@rewrite("reshape_after_reduction", "reduction of reshape(x) -> reshape of a reduction of x",
         Call(SUMS, (Call(RESHAPES, (Var("x"),), "move"),), "sum"), where=_whole_groups, samples=_reduced_reshape)
def reshape_after_reduction(match: Match, x: jax.Array) -> jax.Array:
    """The reduction over the dimensions that were merged."""
    out = reduced(match.op("sum").primitive, x, _reduced_groups(match) or ())
    return jax.lax.reshape(out, match.result("sum").shape)


def split_sizes(shape: Shape, dims: Sequence[int], sizes: Sequence[Sequence[int]]) -> tuple[Shape, list[list[int]]]:
    """A shape with some dimensions split into several, and where each of its dimensions is then."""
    parts = dict(zip(dims, sizes, strict=True))
    new: list[int] = []
    places: list[list[int]] = []
    for d, n in enumerate(shape):
        part = list(parts.get(d, (n,)))
        if math.prod(part) != n:
            raise ValueError(f"dimension {d} of {shape} does not split into {part}")
        places.append(list(range(len(new), len(new) + len(part))))
        new += part
    return tuple(new), places
