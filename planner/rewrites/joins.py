"""Concatenations moved past elementwise operators and reductions, and merged.

What is computed of each part alike is computed once of all parts beside each other, in one kernel, or of each part
where the parts shall be sharded each in its way. Source: found by `planner rewrites generate`
(`concatenate([f(x), f(y)]) = f(concatenate([x, y]))`, `concatenate([x, y], 0).sum(0) = (x + y).sum(0)`); TASO (SOSP
2019, table 2) has those of products and convolutions.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph, Literal, Operand
from planner.rewrites.elementwise import applied, is_elementwise, numbers_of, others, with_numbers
from planner.rewrites.pattern import Call, Match, Var, is_alone, maker, type_of
from planner.rewrites.table import rewrite

PARTS = 8
"""Parts at most. [chosen: what is joined of more is no fused projection]"""


def _alike_parts(graph: Graph) -> Iterator[Match]:
    """Concatenations of results of equal elementwise operators on operands of the results' shapes, and numbers."""
    for n, op in enumerate(graph.ops):
        if op.primitive != "concatenate" or not 2 <= len(op.operands) <= PARTS:
            continue
        makers = [graph.producers.get(o, -1) if isinstance(o, int) else -1 for o in op.operands]
        if -1 in makers or len(set(makers)) < len(makers) or not all(is_alone(graph, m) for m in makers):
            continue
        first = graph.ops[makers[0]]
        constants = [numbers_of(graph, graph.ops[m]) for m in makers]
        if not is_elementwise(first) or not all(_same_function(graph, makers[0], m) for m in makers) or \
                any(c != constants[0] for c in constants) or len(constants[0]) == len(first.operands):
            continue
        operands: dict[str, Operand] = {f"{k}.{part}": o for part, m in enumerate(makers)
                                        for k, o in others(graph.ops[m], constants[0]).items()}
        if all(not isinstance(o, Literal) and graph.values[o].shape == graph.values[graph.ops[makers[int(
                name.split(".")[1])]].results[0]].shape for name, o in operands.items()):
            yield Match(graph, {"join": n, **{str(k): m for k, m in enumerate(makers)}}, operands, constants[0],
                        op.results)


def _same_function(graph: Graph, one: int, other: int) -> bool:
    """Whether two operators are equal but for shapes."""
    a, b = graph.ops[one], graph.ops[other]
    types = [tuple(type_of(graph, o).dtype for o in op.operands) for op in (a, b)]
    said = [{k: repr(v) for k, v in op.params.items() if k != "call_jaxpr"} for op in (a, b)]
    return a.primitive == b.primitive and is_elementwise(a) == is_elementwise(b) and types[0] == types[1] and \
        said[0] == said[1]


def _each_activated(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b, c = (int(n) for n in rng.integers(1, 5, 3))
    return (lambda x, y, z, w: (jnp.concatenate([jnp.exp(x), jnp.exp(y)], 1), jnp.concatenate([x * z, y * w], 1),
                                jnp.concatenate([jax.nn.relu(x + 2.0), jax.nn.relu(z + 2.0)], 0))), \
        tuple(rng.standard_normal((a, n)) for n in (b, c, b, c))


@rewrite("join_before_elementwise", "concatenate(f(x), f(y)) -> f(concatenate(x, y))", _alike_parts,
         samples=_each_activated)
def join_before_elementwise(match: Match, *arrays: jax.Array) -> jax.Array:
    """The elementwise operator once, on all parts."""
    along, op = int(match.params("join")["dimension"]), match.op("0")
    given: dict[str, list[jax.Array]] = {}
    for name, x in zip(match.operands, arrays, strict=True):
        given.setdefault(name.split(".")[0], []).append(x)
    whole = {k: jnp.concatenate(parts, along) for k, parts in given.items()}
    return applied(op, with_numbers(match.graph, op, match.numbers, whole, match.result("join").shape))


def _read_joined(graph: Graph) -> Iterator[Match]:
    """Elementwise operators that read a concatenation, and beside it numbers and what has its shape or is broadcast."""
    for n, op in enumerate(graph.ops):
        if not is_elementwise(op) or len(op.results) != 1:
            continue
        constants = numbers_of(graph, op)
        rest = others(op, constants)
        joins = {k: m for k, o in rest.items() if (m := maker(graph, o, "concatenate")) is not None}
        found = {k: m for k, m in joins.items() if is_alone(graph, m) and len(graph.ops[m].operands) <= PARTS}
        whole = graph.values[op.results[0]].shape
        first = next(iter(found), None)
        if first is None or graph.values[graph.ops[found[first]].results[0]].shape != whole or \
                any(isinstance(o, Literal) for o in graph.ops[found[first]].operands):
            continue
        parts = {f"part{p}": o for p, o in enumerate(graph.ops[found[first]].operands)}
        beside = {k: o for k, o in rest.items() if k != first}
        yield Match(graph, {"op": n, "join": found[first]}, {**parts, **beside}, {**constants, "of": int(first)},
                    op.results)


def _joined_activated(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b, c = (int(n) for n in rng.integers(1, 5, 3))
    return (lambda x, y, z, w: (jnp.tanh(jnp.concatenate([x, y], 1)), z * jnp.concatenate([y, x], 1) + 1.0,
                                w - jnp.concatenate([x, x, y], 1))), \
        (rng.standard_normal((a, b)), rng.standard_normal((a, c)), rng.standard_normal((a, b + c)),
         rng.standard_normal((a, 1)))


@rewrite("join_after_elementwise", "f(concatenate(x, y), z) -> concatenate(f(x, z1), f(y, z2)), z cut", _read_joined,
         samples=_joined_activated)
def join_after_elementwise(match: Match, *arrays: jax.Array) -> jax.Array:
    """The elementwise operator on each part: parts may be sharded each in its way."""
    along, op, of = int(match.params("join")["dimension"]), match.op("op"), str(int(match.numbers["of"]))
    given = dict(zip(match.operands, arrays, strict=True))
    parts = [x for name, x in given.items() if name.startswith("part")]
    results: list[jax.Array] = []
    start = 0
    for part in parts:
        end = start + part.shape[along]
        beside = {k: _cut(x, start, end, along, match.result("join").shape) for k, x in given.items()
                  if not k.startswith("part")}
        results.append(applied(op, with_numbers(match.graph, op, _without(match.numbers, "of"), {**beside, of: part},
                                                part.shape)))
        start = end
    return jnp.concatenate(results, along)


def _cut(x: jax.Array, start: int, end: int, along: int, whole: tuple[int, ...]) -> jax.Array:
    """The part of an operand beside a part; what is broadcast there stays whole."""
    if not x.ndim or x.shape[along] != whole[along]:
        return x
    return jax.lax.slice_in_dim(x, start, end, axis=along)


def _without(numbers: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {k: n for k, n in numbers.items() if k != name}


def _first_joined(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b, c = (int(n) for n in rng.integers(1, 5, 3))
    return (lambda x, y, z, w: (jnp.sin(jnp.concatenate([jnp.concatenate([x, y], 1), z], 1)),
                                jnp.sin(jnp.concatenate([z, jnp.concatenate([w, x], 1)], 1)))), \
        tuple(rng.standard_normal((a, n)) for n in (b, c, b, c))


def _joined_twice(graph: Graph) -> Iterator[Match]:
    """Concatenations of which parts are concatenations along the same dimension."""
    for n, op in enumerate(graph.ops):
        inner: dict[str, int] = {}
        operands: dict[str, Operand] = {}
        for k, o in enumerate(op.operands if op.primitive == "concatenate" else ()):
            m = maker(graph, o, "concatenate")
            if m is not None and is_alone(graph, m) and graph.ops[m].params["dimension"] == op.params["dimension"]:
                inner[f"inner{k}"] = m
                operands |= {f"{k}.{p}": part for p, part in enumerate(graph.ops[m].operands)}
            else:
                operands[f"{k}"] = o
        if inner:
            yield Match(graph, {"outer": n, **inner}, operands, {}, op.results)


@rewrite("merge_joins", "concatenate(concatenate(x, y), z) -> concatenate(x, y, z)", _joined_twice,
         samples=_first_joined, rounding=False)
def merge_joins(match: Match, *parts: jax.Array) -> jax.Array:
    """One for two."""
    return jnp.concatenate(parts, int(match.params("outer")["dimension"]))


def _sums_of_join(match: Match) -> bool:
    along = int(match.params("join")["dimension"])
    return match.is_private("join") and tuple(match.params("sum")["axes"]) == (along,) and \
        match.shape("x") == match.shape("y")


def _joined_summed(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b = (int(n) for n in rng.integers(1, 5, 2))
    return (lambda x, y: jnp.sin(jnp.sum(jnp.concatenate([x, y], 0), 0))), \
        (rng.standard_normal((a, b)), rng.standard_normal((a, b)))


@rewrite("sum_of_join", "sum over concatenate(x, y) -> sum(x + y)",
         Call("reduce_sum", (Call("concatenate", (Var("x"), Var("y")), "join"),), "sum"), where=_sums_of_join,
         samples=_joined_summed)
def sum_of_join(match: Match, x: jax.Array, y: jax.Array) -> jax.Array:
    """Half as much is put beside each other, and reduced."""
    return jax.lax.reduce_sum(x + y, [int(a) for a in match.params("sum")["axes"]])
