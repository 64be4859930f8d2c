"""Whether rules of the table lead from one side of an identity to the other.

Both sides are traced, and rewritten by every rule at every place, a few steps far; where they have become the same
graph, the rules imply the identity. A `None` means "not found within the bound".

In: two terms, their shapes, rules. Out: the names of the rules that were used.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph, Literal, Op, Operand, Role
from planner.rewrites.cuts import cuts_of
from planner.rewrites.einsums import free_dims, numbers
from planner.rewrites.pattern import type_of
from planner.rewrites.table import Rule
from planner.rewriting.generating.operators import computed
from planner.rewriting.generating.sizes import Shape, at
from planner.rewriting.generating.terms import COMMUTATIVE, Term, given, inputs_of
from planner.rewriting.matching import matches
from planner.rewriting.splice import replaced
from planner.trace.jaxpr import trace_graph

GRAPHS = 12
"""Graphs rewritten on each side. [chosen: a rule or two lead from one side to the other, or none does]"""

SIZES = (6, 10, 4, 8, 12, 14, 16, 18)
"""Of unknowns, in turn: all different, as rules look at shapes."""


@dataclass
class _Side:
    """What was reached from one side: graph by key, and the rules on the way."""

    reached: dict[Hashable, tuple[str, ...]] = field(default_factory=dict[Hashable, tuple[str, ...]])
    waiting: list[tuple[Graph, tuple[str, ...]]] = field(default_factory=list[tuple[Graph, tuple[str, ...]]])

    def add(self, graph: Graph, names: tuple[str, ...]) -> Hashable:
        key = key_of(graph)
        if key not in self.reached:
            self.reached[key] = names
            self.waiting.append((graph, names))
        return key


def implied_by(rules: Sequence[Rule], left: Term, right: Term, shapes: dict[Term, Shape]) -> tuple[str, ...] | None:
    """The rules that lead from both sides to one graph; empty where both sides are one graph to begin with."""
    unknowns = dict.fromkeys(u for shape in shapes.values() for size in shape for u in size)
    sizes = at(shapes, {u: SIZES[k % len(SIZES)] for k, u in enumerate(unknowns)})
    names = inputs_of(left, right)
    sides = (_Side(), _Side())
    for side, term in zip(sides, (left, right), strict=True):
        side.add(_traced(term, names, sizes), ())
    meet = next(iter(sides[0].reached.keys() & sides[1].reached.keys()), None)
    for turn in range(2 * GRAPHS):
        if meet is not None:
            return (*sides[0].reached[meet], *sides[1].reached[meet])
        side, other = sides[turn % 2], sides[1 - turn % 2]
        if side.waiting:
            meet = _rewritten(side, other, rules)
    return None


def _rewritten(side: _Side, other: _Side, rules: Sequence[Rule]) -> Hashable | None:
    """Rewrite the next graph of a side in every way; a graph that the other side has reached, if there is one now."""
    graph, names = side.waiting.pop(0)
    for rule in rules:
        for match in matches(graph, rule):
            key = side.add(replaced(graph, rule, [match]), (*names, rule.name))
            if key in other.reached:
                return key
    return None


def _traced(term: Term, names: Sequence[str], sizes: dict[Term, tuple[int, ...]]) -> Graph:
    def fn(*arrays: jax.Array) -> jax.Array:
        return computed(term, {given(n): a for n, a in zip(names, arrays, strict=True)}, sizes, jnp)

    structs = [jax.ShapeDtypeStruct(sizes[given(n)], jnp.float32) for n in names]
    return trace_graph(fn, structs, [Role.BATCH] * len(names), keep_calls=True)


def key_of(graph: Graph) -> Hashable:
    """Equal for graphs that compute the same results from the same inputs by the same operators, in whatever order they
    stand. Copies, casts to the dtype that a value has, and a split in the place of slices make no difference."""
    known: dict[int, Hashable] = {i.value: ("input", n) for n, i in enumerate(graph.inputs)}
    known |= {v: ("constant", np.asarray(a).tobytes(), np.shape(a)) for v, a in graph.constants}

    def key(operand: Operand) -> Hashable:
        if isinstance(operand, Literal):
            return "literal", np.asarray(operand.value).tobytes(), operand.shape, operand.dtype
        return known[operand]

    for op in graph.ops:
        operands = [key(o) for o in op.operands]
        for k, result in enumerate(op.results):
            known[result] = operands[0] if _is_copy(graph, op) else _key(graph, op, operands, k)
    return tuple(key(o.operand) for o in graph.outputs)


def _is_copy(graph: Graph, op: Op) -> bool:
    moves = op.primitive in ("copy", "convert_element_type", "reshape", "broadcast_in_dim")
    return moves and bool(op.inputs) and graph.values[op.inputs[0]] == graph.values[op.results[0]]


def _key(graph: Graph, op: Op, operands: list[Hashable], k: int) -> Hashable:
    """Of a result; parts of a split are slices, and a product of a vector may stand either way round."""
    cuts = [cut for cut in cuts_of(graph, op) if cut.result == op.results[k]]
    if cuts:
        return "cut", cuts[0].starts, cuts[0].limits, operands[0]
    if op.primitive == "dot_general":
        (left, right), batch = numbers(op)
        sides = [(left, batch[0], operands[0]), (right, batch[1], operands[1])]
        if not all(free_dims(op, side, len(type_of(graph, o).shape)) for side, o in enumerate(op.operands)):
            sides.sort(key=repr)
        rest = {name: v for name, v in op.params.items() if name != "dimension_numbers"}
        return "product", sides[0], sides[1], _said(rest)
    if op.primitive in COMMUTATIVE:
        operands = sorted(operands, key=repr)
    return op.primitive, _said(op.params), tuple(operands), k


def _said(params: Any) -> str:
    """Parameters as text, but for what says nothing about the result."""
    return repr(sorted((k, repr(v)) for k, v in params.items() if k not in ("weak_type", "sharding", "out_sharding")))


