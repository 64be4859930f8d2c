"""An update over stacked leaves as an update over rows, computing exactly the same.

The optimizer sees the user's own pytree, so masks, labels and norms mean what the user meant; afterwards the graph is
rewritten so that each row of a stacked leaf is a tensor of its own. Elementwise operators are done row by row,
reductions row by row and then combined; any other operator (Adafactor's factored moments) gets the rows stacked again.

Flows in: the whole-leaf graph and which inputs and outputs are stacked. Flows out: the graph over rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import jax

from planner.core.graph import Graph, Input, Literal, Op, Operand, Output, Phase, Role, Value
from planner.trace.builder import Builder, Stamp
from planner.trace.jaxpr import without_dead_ops

ELEMENTWISE = frozenset("""
    add sub mul div pow integer_pow sqrt rsqrt square one_minus_square exp exp2 expm1 log log1p log2 max min neg sign
    abs select_n clamp convert_element_type lt le gt ge eq ne and or not xor is_finite stop_gradient copy tanh logistic
    round floor ceil erf sin cos cbrt rem reduce_precision nextafter add_any
    """.split())  # noqa: SIM905 (forty quoted names read worse)
"""Operators whose every operand has the rank of the result (or none), and whose parameters do not mention the shape."""

_REDUCTIONS = MappingProxyType({
    "reduce_sum": (jax.lax.reduce_sum, jax.lax.add), "reduce_max": (jax.lax.reduce_max, jax.lax.max),
    "reduce_min": (jax.lax.reduce_min, jax.lax.min), "reduce_and": (jax.lax.reduce_and, jax.lax.bitwise_and),
    "reduce_or": (jax.lax.reduce_or, jax.lax.bitwise_or)})
"""Reduction -> the same as a function, and how its results over rows are combined."""


@dataclass(frozen=True)
class Rows:
    """A stacked value as its rows."""

    parts: tuple[Operand, ...]


def by_rows(graph: Graph, stacked: Mapping[tuple[Role, str], int], phase: Phase = Phase.UPDATE) -> Graph:
    """Rewrite a graph so that the named inputs and outputs are rows.

    Args:
      graph: graph over whole leaves.
      stacked: (role, path) of inputs and outputs -> number of rows.
      phase: phase of the operators of the result.
    """
    if not stacked:
        return replace(graph, ops=tuple([Op(op.primitive, op.operands, op.results, op.params, op.bodies, op.source,
                                            phase, -1, op.payload) for op in graph.ops]))
    work = _ByRows(graph, Builder(stamp=Stamp(phase=phase)))
    inputs: list[Input] = []
    for given in graph.inputs:
        count = stacked.get((given.role, given.path))
        value = graph.values[given.value]
        shape = value.shape if count is None else value.shape[1:]
        made = [work.builder.typed(Value(shape, value.dtype)) for _ in range(count or 1)]
        inputs += [replace(given, value=v, row=None if count is None else n) for n, v in enumerate(made)]
        work.env[given.value] = made[0] if count is None else Rows(tuple(made))
    for v, array in graph.constants:
        work.env[v] = work.builder.constant(array)
    for op in graph.ops:
        work.visit(op)
    outputs: list[Output] = []
    for out in graph.outputs:
        count = stacked.get((out.role, out.path))
        if count is None:
            outputs.append(replace(out, operand=work.whole(out.operand)))
        else:
            outputs += [replace(out, operand=work.row(out.operand, n), row=n) for n in range(count)]
    return without_dead_ops(work.builder.graph(inputs, outputs))


@dataclass
class _ByRows:
    graph: Graph
    builder: Builder
    env: dict[int, "Operand | Rows"] = field(default_factory=dict)
    _makers: dict[int, Op] = field(default_factory=dict)
    _cache: dict[Any, Operand] = field(default_factory=dict)

    def visit(self, op: Op) -> None:
        """Emit one operator of the whole-leaf graph."""
        self.builder.stamp = replace(self.builder.stamp, fallback=op.source)
        for v in op.results:
            self._makers[v] = op
        read = [self.env[v] for v in op.inputs]
        count = next((len(r.parts) for r in read if isinstance(r, Rows)), None)
        shapes = [self.graph.values[v].shape for v in op.results]
        if count is not None and op.primitive in ELEMENTWISE and shapes[0][:1] == (count,):
            parts = tuple(self._emit(op, [self._matching(o, op, n) for o in op.operands], [shapes[0][1:]])[0]
                          for n in range(count))
            self.env[op.results[0]] = Rows(parts)
        elif count is not None and op.primitive in _REDUCTIONS:
            self.env[op.results[0]] = self._reduce(op, count)
        else:
            self.env.update(zip(op.results, self._emit(op, [self.whole(o) for o in op.operands], shapes), strict=True))

    def row(self, operand: Operand, index: int) -> Operand:
        """Row `index` of a value of the whole-leaf graph."""
        if isinstance(operand, Literal):
            return Literal(operand.value[index], operand.shape[1:], operand.dtype)
        known = self.env[operand]
        if isinstance(known, Rows):
            return known.parts[index]
        maker = self._makers.get(operand)
        shape = self.graph.values[operand].shape[1:]
        if maker is not None and maker.primitive == "broadcast_in_dim" and self._rank(maker.operands[0]) == 0:
            return self._cached(("fill", operand), ("fill", shape), lambda x: jax.lax.broadcast_in_dim(x, shape, ()),
                                self.whole(maker.operands[0]))
        return self._cached(("row", operand, index), ("row", index),
                            lambda x: jax.lax.index_in_dim(x, index, keepdims=False), known)

    def whole(self, operand: Operand) -> Operand:
        """A value of the whole-leaf graph in one piece; rows are stacked."""
        if isinstance(operand, Literal):
            return operand
        known = self.env[operand]
        if not isinstance(known, Rows):
            return known
        return self._cached(("whole", operand), "stack", lambda *xs: jax.lax.concatenate(
            [jax.lax.broadcast_in_dim(x, (1, *x.shape), range(1, x.ndim + 1)) for x in xs], 0), *known.parts)

    def _matching(self, operand: Operand, op: Op, index: int) -> Operand:
        """The operand for row `index` of an elementwise operator; a scalar or a dimension of size 1 serves all rows."""
        shape = operand.shape if isinstance(operand, Literal) else self.graph.values[operand].shape
        if len(shape) < len(self.graph.values[op.results[0]].shape):
            return self.whole(operand)
        return self.row(operand, index if shape[0] > 1 else 0)

    def _reduce(self, op: Op, count: int) -> "Operand | Rows":
        axes = tuple(a - 1 for a in op.params["axes"] if a != 0)
        fn, combine = _REDUCTIONS[op.primitive]
        parts = [self.row(op.operands[0], n) for n in range(count)]
        if axes:
            parts = [self.builder.call((op.primitive, axes), lambda x: fn(x, axes), p)[0] for p in parts]
        if 0 not in op.params["axes"]:
            return Rows(tuple(parts))
        total = parts[0]
        for part in parts[1:]:
            total = self.builder.call(("combine", op.primitive), combine, total, part)[0]
        return total

    def _emit(self, op: Op, operands: list[Operand], shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        results = tuple([self.builder.typed(Value(shape, self.graph.values[v].dtype))
                         for v, shape in zip(op.results, shapes, strict=True)])
        self.builder.ops.append(Op(op.primitive, tuple(operands), results, op.params, op.bodies, op.source,
                                   self.builder.stamp.phase, -1, op.payload))
        return results

    def _cached(self, key: Any, call_key: Any, fn: Any, *operands: Operand) -> Operand:
        if key not in self._cache:
            self._cache[key] = self.builder.call(call_key, fn, *operands)[0]
        return self._cache[key]

    def _rank(self, operand: Operand) -> int:
        return len(operand.shape) if isinstance(operand, Literal) else len(self.graph.values[operand].shape)
