"""Cheap producers computed again, so that what they make is neither kept nor carried.

A reader that is far off gets a copy of its own, and a product makes its elementwise operand again in the backward pass
instead of keeping it. Source: Chen et al. 2016 (arXiv 1604.06174), who recompute what is cheap.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph, Operand
from planner.interpret import read, run_ops
from planner.rewrites.elementwise import is_elementwise, is_small
from planner.rewrites.pattern import Match, is_alone, number_of, type_of
from planner.rewrites.table import rewrite

HEAVY = frozenset({"dot_general", "conv_general_dilated", "scan", "while"})
"""What is read beside what one of these makes of it is carried past it."""


def _far_readers(graph: Graph) -> Iterator[Match]:
    """Readers of elementwise results beside what a heavy operator made of those."""
    for n, op in enumerate(graph.ops):
        readers = graph.consumers.get(op.results[0], ()) if len(op.results) == 1 else ()
        if len(readers) < 2 or not is_elementwise(op) or not _of_one(graph, n):
            continue
        for r in _carried(graph, op.results[0], readers):
            reader = graph.ops[r]
            own = {f"made of {k}": o for k, o in enumerate(op.operands)}
            other = {str(k): o for k, o in enumerate(reader.operands) if o != op.results[0]}
            yield Match(graph, {"maker": n, "reader": r}, {**own, **other}, {}, reader.results)


def _carried(graph: Graph, value: int, readers: Sequence[int]) -> Iterator[int]:
    """The readers of a value that read beside it what a heavy operator made of it."""
    made, past = {value}, set[int]()
    for r in range(readers[0], readers[-1] + 1):
        op = graph.ops[r]
        if r in readers and not past.isdisjoint(op.inputs):
            yield r
        if not made.isdisjoint(op.inputs):
            made.update(op.results)
            if op.primitive in HEAVY or not past.isdisjoint(op.inputs):
                past.update(op.results)


def _of_one(graph: Graph, n: int) -> bool:
    """Whether an operator makes what it makes of one array, no larger than the result, and of numbers and what is
    small."""
    op = graph.ops[n]
    made = graph.values[op.results[0]]
    large = [o for o in op.operands if number_of(graph, o) is None and not is_small(graph, o, made.shape)]
    return len(large) == 1 and isinstance(large[0], int) and _bytes(graph, large[0]) <= _bytes(graph, op.results[0])


def _bytes(graph: Graph, operand: Operand) -> int:
    typed = type_of(graph, operand)
    return math.prod(typed.shape) * jnp.dtype(typed.dtype).itemsize


def _read_far(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b = rng.integers(2, 5, 2)

    def fn(x: jax.Array, w: jax.Array) -> jax.Array:
        y = jnp.tanh(x)
        return jnp.sin(y @ w) + y

    return fn, (rng.standard_normal((a, b)), rng.standard_normal((b, b)))


@rewrite("recompute_for_reader", "f(x) read far off -> f(x) computed again there", _far_readers, samples=_read_far)
def recompute_for_reader(match: Match, *arrays: jax.Array) -> Any:
    """Nothing but x is carried from there to here. (The gradient of x is summed in another order.)"""
    given, maker, reader = dict(zip(match.operands, arrays, strict=True)), match.op("maker"), match.op("reader")
    (made,) = maker.payload.bind([given[f"made of {k}"] for k in range(len(maker.operands))])
    whole = [given.get(str(k), made) for k in range(len(reader.operands))]
    found = reader.payload.bind(whole)
    return tuple(found) if len(found) > 1 else found[0]


def _cone(graph: Graph, operand: Operand) -> set[int]:
    """The elementwise operators that lead to an operand and to nothing else."""
    found: set[int] = set()
    todo = [operand]
    while todo:
        at = todo.pop()
        n = graph.producers.get(at) if isinstance(at, int) else None
        if n is None or n in found or len(graph.ops[n].results) != 1:
            continue
        op = graph.ops[n]
        readers = graph.consumers.get(op.results[0], ())
        inside = found.issuperset(readers) if found else is_alone(graph, n)
        if is_elementwise(op) and inside and op.results[0] not in {o.operand for o in graph.outputs}:
            found.add(n)
            todo = [*op.inputs, *(v for m in found for v in graph.ops[m].inputs)]
    return found


def _activated(graph: Graph) -> Iterator[Match]:
    """Products of what elementwise operators make of few arrays, of which keeping those takes less."""
    for n, op in enumerate(graph.ops):
        for side in (0, 1) if op.primitive == "dot_general" else ():
            cone = _cone(graph, op.operands[side])
            made = {v for m in cone for v in graph.ops[m].results}
            read_there = dict.fromkeys(v for m in sorted(cone) for v in graph.ops[m].inputs if v not in made)
            casts_only = all(graph.ops[m].primitive == "convert_element_type" for m in cone)
            if casts_only or not cone or sum(_bytes(graph, v) for v in read_there) > \
                    2 * _bytes(graph, op.operands[side]):
                continue
            ops = {"product": n, **{f"op{k}": m for k, m in enumerate(sorted(cone))}}
            inputs = dict.fromkeys((*read_there, *(v for v in op.inputs if v not in made)))
            yield Match(graph, ops, {str(k): v for k, v in enumerate(inputs)}, {}, op.results)


def _activation(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b, c = rng.integers(2, 5, 3)
    return (lambda x, w, v: jax.nn.gelu(x @ w) @ v), \
        (rng.standard_normal((a, b)), rng.standard_normal((b, c)), rng.standard_normal((c, b)))


@rewrite("recompute_activation", "f(x)·w -> the same, f(x) made again in the backward pass", _activated,
         samples=_activation)
def recompute_activation(match: Match, *arrays: jax.Array) -> jax.Array:
    """x is kept, and neither f(x) nor what is between."""
    return run_again(match, sorted(match.ops.values()), arrays)


def run_again(match: Match, ops: Sequence[int], arrays: Sequence[jax.Array]) -> jax.Array:
    """What operators, in order, make of a match's operands, of which alone the backward pass runs them again."""
    def run(given: Sequence[jax.Array]) -> Any:
        env: dict[int, Any] = dict(zip((o for o in match.operands.values() if isinstance(o, int)), given, strict=True))
        run_ops([match.graph.ops[n] for n in ops], env)
        return read(match.roots[0], env)

    return jax.checkpoint(run)(arrays)
