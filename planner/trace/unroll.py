"""Unrolling of loops over layers, so that a stage boundary can fall between two iterations.

A `scan` is a loop over layers if what it iterates over includes rows (of rank >= 1) of a parameter. Its iterations are
emitted one by one: each `xs` becomes static rows, each `ys` is stacked again, and a later scan that reads the stack
(the backward of one the user differentiated) gets the rows directly.

Flows in: a scan equation and its operands, while a `Builder` inlines. Flows out: the operands of its results.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from planner import compat
from planner.core.graph import Literal, Operand
from planner.trace.builder import Builder

MOST_LAYERS = 512
"""Iterations. A longer scan stays one operator: no model has so many layers, and the graph would be unreadable."""

_SAME_ROWS = frozenset({"convert_element_type", "copy", "reduce_precision", "stop_gradient"})
"""Operators that act on each row alone, whatever the shape: rows are taken first, then these are applied."""

_PASSING = _SAME_ROWS | {"slice", "squeeze", "reshape", "transpose", "optimization_barrier"}
"""Operators through which a value still counts as a parameter."""


@dataclass
class LayerScans:
    """The `Inlining.unroll` policy: unrolls every scan over rows of `layered` values (parameters, at the start).

    One instance serves one `Builder`.
    """

    layered: set[int] = field(default_factory=set)
    _rows: dict[int, tuple[Operand, ...]] = field(default_factory=dict)
    _taken: dict[tuple[int, int], Operand] = field(default_factory=dict)
    _scanned_ops: int = 0
    _maker: dict[int, int] = field(default_factory=dict)

    def __call__(self, builder: Builder, eqn: Any, operands: list[Operand]) -> list[Operand] | None:
        self._catch_up(builder)
        params = compat.told_params(eqn)
        first = params["num_consts"] + params["num_carry"]
        if params["length"] > MOST_LAYERS or not self._over_layers(builder, operands[first:]):
            return None
        body, steps = params["jaxpr"], range(params["length"])
        consts, carry = operands[:params["num_consts"]], operands[params["num_consts"]:first]
        rows: dict[int, list[Operand]] = {}
        for step in reversed(steps) if params["reverse"] else steps:
            row = [self.row(builder, x, step) for x in operands[first:]]
            outs = builder.inline(body.jaxpr, body.consts, [*consts, *carry, *row])
            carry, rows[step] = outs[:len(carry)], outs[len(carry):]
        stacks = [self._stack(builder, [rows[s][n] for s in steps]) for n in range(len(rows[0]))] if rows else []
        return [*carry, *stacks] if rows else None

    def row(self, builder: Builder, operand: Operand, index: int) -> Operand:
        """Row `index` of dimension 0, without that dimension."""
        if isinstance(operand, Literal):
            value = operand.value[index]
            return Literal(value, tuple(value.shape), operand.dtype)
        if operand in self._rows:
            return self._rows[operand][index]
        key = (operand, index)
        if key not in self._taken:
            self._taken[key] = self._take(builder, operand, index)
        return self._taken[key]

    def _take(self, builder: Builder, operand: int, index: int) -> Operand:
        self._catch_up(builder)
        maker = builder.ops[self._maker[operand]] if operand in self._maker else None
        if maker is not None and maker.primitive in _SAME_ROWS and maker.inputs:
            inner = self.row(builder, maker.inputs[0], index)
            return builder.call(("row of", id(maker.params)), lambda x: maker.payload.bind([x])[0], inner)[0]
        return builder.call(("row", index), lambda x: jax.lax.index_in_dim(x, index, keepdims=False), operand)[0]

    def _stack(self, builder: Builder, rows: Sequence[Operand]) -> Operand:
        def widen(x: Any) -> Any:
            return jax.lax.broadcast_in_dim(x, (1, *x.shape), range(1, x.ndim + 1))

        widened = [builder.call("widen", widen, r)[0] for r in rows]
        stack = builder.call("stack", lambda *xs: jax.lax.concatenate(xs, 0), *widened)[0]
        if isinstance(stack, int):
            self._rows[stack] = tuple(rows)
            self.layered.add(stack)
        return stack

    def _over_layers(self, builder: Builder, xs: Iterable[Operand]) -> bool:
        return any(isinstance(x, int) and x in self.layered and len(builder.values[x].shape) > 1 for x in xs)

    def _catch_up(self, builder: Builder) -> None:
        """Learn which of the operators emitted since the last scan pass a parameter on."""
        for n in range(self._scanned_ops, len(builder.ops)):
            op = builder.ops[n]
            for v in op.results:
                self._maker[v] = n
            if op.primitive in _PASSING and self.layered.intersection(op.inputs):
                self.layered.update(op.results)
        self._scanned_ops = len(builder.ops)
