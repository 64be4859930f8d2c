"""Reverse mode on a graph, operator by operator, so that every backward operator knows its forward operator.

The forward operators are walked from last to first. One whose results have cotangents and whose operands depend on a
parameter is replaced by its reverse rule (`vjp.py`). Contributions to a value's cotangent are summed where the value
was made; contributions to a parameter's gradient are never summed: each is an output of its own, because two pipeline
stages may hold one each. The method is textbook reverse accumulation (Griewank & Walther, ch. 3); taking the rules from
`jax.vjp` of one primitive at a time is what makes the origin of each operator known.

Flows in: a forward `Graph` with a scalar loss, custom rules kept as operators. Flows out: a `Graph` with forward and
backward operators, gradient outputs, and `cotangent_of`. Forward values keep their indices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import jax
import numpy as np

from planner import compat
from planner.core.graph import Graph, Input, Literal, Op, Operand, Output, Phase, Role
from planner.interpret import Bound
from planner.trace.builder import DIFFERENTIATED_CALLS, Builder, Inlining, Stamp
from planner.trace.dtypes import dtype_of, is_inexact
from planner.trace.jaxpr import operand_of, scalar_literal, without_dead_ops
from planner.trace.vjp import Reverse, ReverseRules

_KEPT_CALLS = DIFFERENTIATED_CALLS | {"checkpoint"}

_SUM = Bound(compat.add_any_p, MappingProxyType({}))
"""What adds up two cotangents."""


def differentiate(graph: Graph, rules: ReverseRules | None = None) -> Graph:
    """Forward and backward of a loss, with the gradient of every PARAM input.

    Args:
      graph: forward graph with one LOSS output, a floating scalar.
      rules: reverse rules that are known from graphs that were differentiated before; more are added.

    Returns:
      A graph with the outputs of `graph`, then one GRAD output per (parameter, forward operator that reads it with a
      gradient), in the order of the PARAM inputs; a parameter that the loss does not depend on gets zeros.

    Raises:
      TraceError: if an operator on the way has no derivative.
    """
    walk = _Walk(graph, rules or ReverseRules())
    loss = operand_of(graph, Role.LOSS, "")
    if isinstance(loss, int):
        walk.contribute(loss, scalar_literal(1.0, graph.values[loss].dtype), -1)
    for n in reversed(range(len(graph.ops))):
        walk.visit(n)
    return walk.finish()


@dataclass
class _Walk:
    graph: Graph
    rules: ReverseRules
    builder: Builder = field(default_factory=lambda: Builder(Inlining(keep_calls=False)))
    active: set[int] = field(default_factory=set)
    params: dict[int, Input] = field(default_factory=dict)
    pending: dict[int, list[Operand]] = field(default_factory=dict)
    grads: dict[int, dict[int, Operand]] = field(default_factory=dict)
    total: dict[int, int] = field(default_factory=dict)
    forward: dict[int, list[Op]] = field(default_factory=dict)
    backward: list[Op] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.builder.values.extend(self.graph.values)
        self.params = {i.value: i for i in self.graph.inputs_of(Role.PARAM)}
        self.active = active_values(self.graph)

    def contribute(self, value: int, cotangent: Operand, origin: int) -> None:
        """One operator's contribution to the cotangent of a value."""
        if value not in self.params:
            self.pending.setdefault(value, []).append(cotangent)
            return
        known = self.grads.setdefault(value, {})
        known[origin] = cotangent if origin not in known else self._add(known[origin], cotangent, value, origin)

    def visit(self, n: int) -> None:
        """Replace forward operator `n` by its reverse rule, if a gradient flows through it."""
        op = self.graph.ops[n]
        given = tuple([i for i, v in enumerate(op.results) if v in self.pending])
        wanted = tuple([i for i, o in enumerate(op.operands) if isinstance(o, int) and o in self.active])
        cotangents = [self._total(op.results[i], n) for i in given]
        if not given or not wanted or op.primitive == "stop_gradient":
            return
        rule = self.rules.of(op, self.builder.values, wanted, given)
        self._emit(n, op, rule, cotangents, wanted)

    def finish(self) -> Graph:
        """Forward operators, then backward ones, with all outputs."""
        outputs = [*self.graph.outputs, *self._grad_outputs()]
        ops = [o for n, op in enumerate(self.graph.ops) for o in self.forward.get(n) or self._unchanged(n, op)]
        graph = Graph(tuple(self.builder.values), (*ops, *self.backward), self.graph.inputs, tuple(outputs),
                      (*self.graph.constants, *self.builder.constants))
        live = without_dead_ops(graph)
        made = {v for op in live.ops for v in op.results}
        pairs = tuple((v, c) for v, c in sorted(self.total.items()) if c in made)
        return replace(live, cotangent_of=pairs)

    def _emit(self, n: int, op: Op, rule: Reverse, cotangents: Sequence[Operand], wanted: Sequence[int]) -> None:
        env: dict[int, Operand] = dict(zip(rule.inputs, (*op.inputs, *cotangents), strict=True))
        for v, array in rule.graph.constants:
            env[v] = self.builder.constant(array)
        own = {}
        for local, value in zip(rule.results, op.results, strict=True):
            if isinstance(local, int) and local not in env and local not in own:
                own[local] = value
        ahead: list[Op] = []
        types, typed = rule.graph.values, self.builder.typed
        for index, inner in enumerate(rule.graph.ops):
            results = tuple([own[v] if v in own else typed(types[v]) for v in inner.results])
            env.update(zip(inner.results, results, strict=True))
            is_forward = index in rule.forward
            made = Op(inner.primitive, _mapped(inner.operands, env), results, inner.params, inner.bodies,
                      inner.source or op.source, Phase.FORWARD if is_forward else Phase.BACKWARD, n, inner.payload)
            (ahead if is_forward else self.backward).append(made)
        for local, value in zip(rule.results, op.results, strict=True):
            if isinstance(local, Literal) or env[local] != value:
                source = local if isinstance(local, Literal) else env[local]
                ahead.extend(self._copy(source, value, n, op.source))
        self.forward[n] = ahead
        for position, local in zip(wanted, rule.cotangents, strict=True):
            target = op.operands[position]
            if local is not None and isinstance(target, int):
                self.contribute(target, local if isinstance(local, Literal) else env[local], n)

    def _total(self, value: int, origin: int) -> Operand:
        total, *others = self.pending[value]
        for other in others:
            total = self._add(total, other, value, origin)
        if isinstance(total, int):
            self.total[value] = total
        return total

    def _add(self, a: Operand, b: Operand, value: int, origin: int) -> int:
        out = self.builder.typed(self.builder.values[value])
        source = self.graph.ops[origin].source if origin >= 0 else ""
        self.backward.append(Op("add_any", (a, b), (out,), _SUM.params, (), source, Phase.BACKWARD, origin, _SUM))
        return out

    def _copy(self, source: Operand, value: int, origin: int, where: str) -> list[Op]:
        """`value` as a copy of another operand: for an operator whose result is one of its operands, or a constant."""
        if isinstance(source, Literal):
            shape, kept = self.builder.values[value].shape, tuple(range(len(source.shape)))
            payload = Bound(jax.lax.broadcast_in_dim_p, MappingProxyType(
                {"shape": shape, "broadcast_dimensions": kept, "sharding": None}))
        else:
            payload = Bound(jax.lax.copy_p, MappingProxyType({}))
        name = payload.primitive.name
        return [Op(name, (source,), (value,), payload.params, (), where, Phase.FORWARD, origin, payload)]

    def _unchanged(self, n: int, op: Op) -> list[Op]:
        """A forward operator without gradient; its body takes its place if it was kept only for differentiation."""
        if op.primitive not in _KEPT_CALLS:
            return [op if op.origin == n else replace(op, origin=n)]
        self.builder.ops, self.builder.stamp = [], Stamp(None, op.source, Phase.FORWARD, n)
        outs = self.builder.inline_body(op.payload.params, list(op.operands))
        own: dict[int, int] = {}
        made = {v for o in self.builder.ops for v in o.results}
        for out, value in zip(outs, op.results, strict=True):
            if isinstance(out, int) and out in made and out not in own:
                own[out] = value
        renamed = [replace(o, results=tuple(own.get(v, v) for v in o.results), operands=_mapped(o.operands, own))
                   for o in self.builder.ops]
        for out, value in zip(outs, op.results, strict=True):
            source = own.get(out, out) if isinstance(out, int) else out
            if source != value:
                renamed.extend(self._copy(source, value, n, op.source))
        return renamed

    def _grad_outputs(self) -> list[Output]:
        outputs = []
        readers = self.graph.consumers
        for value, param in self.params.items():
            contributions = self.grads.get(value)
            if not contributions:
                contributions = {-1: self._zeros(value, readers.get(value, [0])[0])}
            outputs += [Output(o, Role.GRAD, param.path, param.row) for _, o in sorted(contributions.items())]
        return outputs

    def _zeros(self, value: int, origin: int) -> int:
        typed = self.builder.values[value]
        zero = Literal(np.zeros((), dtype_of(typed.dtype)), (), typed.dtype)
        out = self.builder.typed(typed)
        self.backward += [replace(o, phase=Phase.BACKWARD) for o in self._copy(zero, out, origin, "")]
        return out


def active_values(graph: Graph) -> set[int]:
    """The floating values that depend on a floating parameter through floating values."""
    active = {i.value for i in graph.inputs_of(Role.PARAM) if is_inexact(graph.values[i.value].dtype)}
    for op in graph.ops:
        if op.primitive != "stop_gradient" and active.intersection(op.inputs):
            active.update(v for v in op.results if is_inexact(graph.values[v].dtype))
    return active


def _mapped(operands: Sequence[Operand], env: Mapping[int, Operand]) -> tuple[Operand, ...]:
    return tuple([o if isinstance(o, Literal) else env.get(o, o) for o in operands])
