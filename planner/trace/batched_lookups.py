"""Say that a lookup goes row by row, where a counter among its indices says so.

`logits[jnp.arange(n), labels]` looks up element `labels[i]` of row `i`. JAX traces the counter as one more column of
indices, which the compiler can't see through: it gathers the indices and sums what every device finds. With the rows as
batching dimensions (what `jnp.take_along_axis` and `jax.vmap` give) each device looks up in the rows it holds. The same
goes for scatters.

In: a `Graph`. Out: an equal one whose lookups have batching dimensions instead of counters.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from planner.core.graph import Graph, Literal, Op, Operand, Value
from planner.interpret import Bound
from planner.trace.jaxpr import without_dead_ops

_SCATTERS = frozenset({"scatter", "scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max"})

_INTEGERS = frozenset({"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"})

_SAME = frozenset({"convert_element_type", "copy", "stop_gradient"})
"""Operators that hand a counter on as it is, if its dtype reaches that far."""


def with_batched_lookups(graph: Graph) -> Graph:
    """The graph with a batching dimension for each counter that covers a whole dimension of its table."""
    edit = _Edit(graph)
    for op in graph.ops:
        edit.ops.append(edit.batched(op) if op.primitive == "gather" or op.primitive in _SCATTERS else op)
    if not edit.changed:
        return graph
    return without_dead_ops(replace(graph, values=tuple(edit.values), ops=tuple(edit.ops)))


@dataclass(frozen=True)
class _Numbers:
    """Gather's and scatter's dimension numbers in one vocabulary (`rules.indexing` has the words)."""

    hidden: tuple[int, ...]
    indexed: tuple[int, ...]
    table_batch: tuple[int, ...]
    index_batch: tuple[int, ...]

    def without(self, found: Sequence[tuple[int, int]]) -> "_Numbers":
        """`found`: (column, dimension of the indices that it counts)."""
        columns = {c for c, _ in found}
        rows = {self.indexed[c] for c in columns}
        new = [(self.indexed[c], d) for c, d in found]
        pairs = sorted([*zip(self.table_batch, self.index_batch, strict=True), *new])
        return _Numbers(tuple(d for d in self.hidden if d not in rows),
                        tuple(d for c, d in enumerate(self.indexed) if c not in columns),
                        tuple(d for d, _ in pairs), tuple(e for _, e in pairs))


class _Edit:
    """The graph being rewritten: operators so far, and values with those that were added."""

    def __init__(self, graph: Graph) -> None:
        self.values: list[Value] = list(graph.values)
        self.ops: list[Op] = []
        self.changed = False
        self._producer = {v: op for op in graph.ops for v in op.results}
        self._constants = dict(graph.constants)

    def batched(self, op: Op) -> Op:
        """The lookup without its counters; as it is where there are none, or nothing would be left to look up."""
        numbers, columns = _numbers(op), self._columns(op.operands[1])
        if columns is None or op.params["unique_indices"]:
            return op
        table, indices = self._shape(op.operands[0]), self._shape(op.operands[1])
        found: list[tuple[int, int]] = []
        for c, (column, row) in enumerate(zip(columns, numbers.indexed, strict=True)):
            d = self._counts(column)
            free = d is not None and d not in numbers.index_batch and d not in [e for _, e in found]
            if d is not None and free and row in numbers.hidden and indices[d] == table[row]:
                found.append((c, d))
        left = [column for c, column in enumerate(columns) if c not in [k for k, _ in found]]
        if not found or not left:
            return op
        self.changed = True
        payload = Bound(op.payload.primitive, MappingProxyType(_params(op, numbers.without(found))))
        return replace(op, operands=(op.operands[0], self._joined(left, op), *op.operands[2:]), params=payload.params,
                       payload=payload)

    def _columns(self, indices: Operand) -> tuple[Operand, ...] | None:
        """The columns that the indices were put together from."""
        op = self._producer.get(indices) if isinstance(indices, int) else None
        if op is None or op.primitive != "concatenate" or op.params["dimension"] != len(self._shape(indices)) - 1:
            return None
        return op.operands if all(self._shape(o)[-1] == 1 for o in op.operands) else None

    def _joined(self, columns: Sequence[Operand], near: Op) -> Operand:
        if len(columns) == 1:
            return columns[0]
        shape = (*self._shape(columns[0])[:-1], len(columns))
        first = columns[0]
        self.values.append(Value(shape, first.dtype if isinstance(first, Literal) else self.values[first].dtype))
        payload = Bound(jax.lax.concatenate_p, MappingProxyType({"dimension": len(shape) - 1}))
        self.ops.append(Op("concatenate", tuple(columns), (len(self.values) - 1,), payload.params, (), near.source,
                           near.phase, near.origin, payload))
        return len(self.values) - 1

    def _shape(self, operand: Operand) -> tuple[int, ...]:
        return operand.shape if isinstance(operand, Literal) else self.values[operand].shape

    def _counts(self, operand: Operand) -> int | None:
        """The dimension along which a value counts 0, 1, 2, ... and is the same otherwise; None if there is none."""
        if isinstance(operand, Literal):
            return _counted(np.asarray(operand.value)) if operand.shape else None
        if operand in self._constants:
            return _counted(np.asarray(self._constants[operand]))
        op = self._producer.get(operand)
        if op is None:
            return None
        if op.primitive == "iota":
            return op.params["dimension"]
        if op.primitive == "select_n":
            return self._counts(op.operands[1]) if self._is_never(op.operands[0]) else None
        before = self._counts(op.operands[0]) if op.primitive in _SAME | _MOVES.keys() else None
        if before is None or op.primitive in _SAME:
            return before if before is not None and self._reaches(operand, before) else None
        return _MOVES[op.primitive](op, before, self._shape(op.operands[0]), self._shape(operand))

    def _reaches(self, value: int, d: int) -> bool:
        typed = self.values[value]
        return typed.dtype in _INTEGERS and typed.shape[d] - 1 <= np.iinfo(typed.dtype).max

    def _is_never(self, test: Operand) -> bool:
        """Whether a test asks if a counter is below zero, or is known to be false everywhere."""
        if isinstance(test, int) and test in self._constants:
            return not np.any(np.asarray(self._constants[test]))
        op = self._producer.get(test) if isinstance(test, int) else None
        if op is None or op.primitive != "lt":
            return False
        limit = op.operands[1]
        return isinstance(limit, Literal) and not np.any(limit.value) and self._counts(op.operands[0]) is not None


def _counted(array: Any) -> int | None:
    for d, size in enumerate(array.shape):
        along = np.arange(size).reshape([size if e == d else 1 for e in range(array.ndim)])
        if np.array_equal(array, np.broadcast_to(along, array.shape)):
            return d
    return None


def _broadcast(op: Op, d: int, _before: tuple[int, ...], _after: tuple[int, ...]) -> int:
    return int(op.params["broadcast_dimensions"][d])


def _reshaped(_op: Op, d: int, before: tuple[int, ...], after: tuple[int, ...]) -> int | None:
    """Where only dimensions of size one come or go."""
    wide = [e for e, n in enumerate(before) if n > 1]
    if d not in wide or [before[e] for e in wide] != [n for n in after if n > 1]:
        return None
    return [e for e, n in enumerate(after) if n > 1][wide.index(d)]


def _transposed(op: Op, d: int, _before: tuple[int, ...], _after: tuple[int, ...]) -> int:
    return list(op.params["permutation"]).index(d)


_MOVES = MappingProxyType({"broadcast_in_dim": _broadcast, "reshape": _reshaped, "squeeze": _reshaped,
                           "expand_dims": _reshaped, "transpose": _transposed})


def _numbers(op: Op) -> _Numbers:
    n = op.params["dimension_numbers"]
    if op.primitive == "gather":
        return _Numbers(n.collapsed_slice_dims, n.start_index_map, n.operand_batching_dims,
                        n.start_indices_batching_dims)
    return _Numbers(n.inserted_window_dims, n.scatter_dims_to_operand_dims, n.operand_batching_dims,
                    n.scatter_indices_batching_dims)


def _params(op: Op, numbers: _Numbers) -> dict[str, Any]:
    given = op.params["dimension_numbers"]
    if op.primitive == "gather":
        made: Any = jax.lax.GatherDimensionNumbers(given.offset_dims, numbers.hidden, numbers.indexed,
                                                   numbers.table_batch, numbers.index_batch)
    else:
        made = jax.lax.ScatterDimensionNumbers(given.update_window_dims, numbers.hidden, numbers.indexed,
                                               numbers.table_batch, numbers.index_batch)
    return {**op.params, "dimension_numbers": made, "indices_are_sorted": False}
