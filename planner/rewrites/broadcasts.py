"""Broadcasts moved behind elementwise operators, and merged: what is computed before one is smaller."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph
from planner.rewrites.elementwise import applied, is_elementwise, numbers_of, others, with_numbers
from planner.rewrites.pattern import Call, Match, Var, is_alone, maker, type_of
from planner.rewrites.table import rewrite


def _grows(graph: Graph, n: int) -> bool:
    op = graph.ops[n]
    return 1 < math.prod(type_of(graph, op.operands[0]).shape) < math.prod(graph.values[op.results[0]].shape)


def _read_broadcast(graph: Graph) -> Iterator[Match]:
    """Elementwise operators that read nothing but equal broadcasts, and numbers."""
    for n, op in enumerate(graph.ops):
        if not is_elementwise(op) or len(op.results) != 1:
            continue
        numbers = numbers_of(graph, op)
        moves = {k: maker(graph, o, "broadcast_in_dim") for k, o in others(op, numbers).items()}
        found = {k: m for k, m in moves.items() if m is not None and _grows(graph, m) and is_alone(graph, m)}
        if not found or len(found) < len(moves):
            continue
        inner = {k: graph.ops[m].operands[0] for k, m in found.items()}
        if len({(type_of(graph, inner[k]).shape, graph.ops[m].params["shape"], _dims(graph, m))
                for k, m in found.items()}) == 1:
            yield Match(graph, {"op": n, **{f"move{k}": m for k, m in found.items()}}, inner, numbers, op.results)


def _dims(graph: Graph, n: int) -> tuple[int, ...]:
    return tuple(int(d) for d in graph.ops[n].params["broadcast_dimensions"])


def repeated(graph: Graph, n: int) -> set[int]:
    """The dimensions of a broadcast's result that its operand lacks or has in size 1."""
    own = dict(zip(_dims(graph, n), type_of(graph, graph.ops[n].operands[0]).shape, strict=True))
    return {d for d, size in enumerate(graph.values[graph.ops[n].results[0]].shape) if own.get(d) != size}


def _computed_late(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b, c = (int(n) for n in rng.integers(2, 5, 3))
    spread = lambda x: jax.lax.broadcast_in_dim(x, (a, b, c), (0, 2))  # noqa: E731
    return (lambda x, y, z: z * (spread(x) * spread(y)) + jnp.exp(spread(x))), \
        (rng.standard_normal((a, c)), rng.standard_normal((a, c)), rng.standard_normal((a, b, c)))


@rewrite("broadcast_after_elementwise", "f(broadcast(x), ...) -> broadcast(f(x, ...))", _read_broadcast,
         samples=_computed_late)
def broadcast_after_elementwise(match: Match, *arrays: jax.Array) -> jax.Array:
    """The elementwise operator first, on less."""
    op, move = match.op("op"), next(name for name in match.ops if name != "op")
    given = dict(zip(match.operands, arrays, strict=True))
    out = applied(op, with_numbers(match.graph, op, match.numbers, given, arrays[0].shape))
    return jax.lax.broadcast_in_dim(out, match.result("op").shape, _dims(match.graph, match.ops[move]))


def _twice(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b, c = (int(n) for n in rng.integers(2, 5, 3))
    once = lambda x: jax.lax.broadcast_in_dim(x, (a, c), (0,))  # noqa: E731
    return (lambda x: jnp.sin(jax.lax.broadcast_in_dim(once(x), (a, b, c), (0, 2)))), (rng.standard_normal((a,)),)


def _private(match: Match) -> bool:
    return match.is_private("inner")


@rewrite("merge_broadcasts", "broadcast of broadcast(x) -> one broadcast",
         Call("broadcast_in_dim", (Call("broadcast_in_dim", (Var("x"),), "inner"),), "outer"), where=_private,
         samples=_twice)
def merge_broadcasts(match: Match, x: jax.Array) -> jax.Array:
    """One for two."""
    inner, outer = (_dims(match.graph, match.ops[name]) for name in ("inner", "outer"))
    return jax.lax.broadcast_in_dim(x, match.result("outer").shape, [outer[d] for d in inner])
