"""A graph under construction: equations go in one by one, nested calls are inlined on the way.

Flows in: jaxprs and the operands they are applied to. Flows out: a `Graph`. What is inlined and what stays one operator
with a body is the `Inlining` policy. Nothing is executed and nothing is allocated.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from planner import compat
from planner.core.graph import Graph, Input, Literal, Op, Operand, Output, Phase, Role, Value
from planner.interpret import Bound
from planner.trace.dtypes import name_of_dtype, struct_of
from planner.trace.sources import Sources, is_machinery

CALLS = frozenset({"jit", "pjit", "closed_call", "core_call", "core_closed_call", "composite"})
"""Primitives that only wrap a body: always inlined."""

CHECKPOINTS = frozenset({"checkpoint", "remat", "remat2"})
"""The names `jax.checkpoint` has had; all become `"checkpoint"` in the graph."""

DIFFERENTIATED_CALLS = frozenset({"custom_jvp_call", "custom_vjp_call"}) | CHECKPOINTS
"""Calls that mean something to differentiation: kept as operators until it is done."""

LARGEST_LITERAL = 64
"""Elements. A larger array written into a program becomes a constant of the graph."""

BODY_PARAMS: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "scan": ("jaxpr",), "while": ("cond_jaxpr", "body_jaxpr"), "cond": ("branches",),
    "custom_jvp_call": ("call_jaxpr",), "custom_vjp_call": ("call_jaxpr",),
    **dict.fromkeys(CHECKPOINTS, ("jaxpr",)),
})
"""The parameters that hold the bodies of an operator, in the order of `Op.bodies`."""

Unroller = Callable[["Builder", Any, list[Operand]], "list[Operand] | None"]


@dataclass(frozen=True)
class Inlining:
    """What becomes of nested jaxprs.

    Attributes:
      keep_calls: keep custom_jvp, custom_vjp and checkpoint as operators with a body (to be differentiated later).
      unroll: asked for every scan; returns its results after emitting the iterations one by one, or None to keep it.
    """

    keep_calls: bool = False
    unroll: Unroller | None = None


@dataclass(frozen=True, slots=True)
class Stamp:
    """What is written on emitted operators.

    Attributes:
      source: overrides the equation's own source unless None: inside JAX's own functions (`jnp.var`), whose cached
        traces remember another caller.
      fallback: the source where the equation has none.
      phase, origin: see `Op`.
    """

    source: str | None = None
    fallback: str = ""
    phase: Phase = Phase.FORWARD
    origin: int = -1


@dataclass(frozen=True, slots=True)
class _Emitted:
    """What an equation says, however often it is emitted."""

    eqn: Any  # held, so that its id stays taken
    primitive: str
    payload: Bound
    params: MappingProxyType[str, Any]
    bodies: tuple[Graph, ...]
    source: str
    results: tuple[Value, ...]


@dataclass
class Builder:
    """See the module. Equations, literals and types that appear again (a body that is called for every layer) are
    looked into once."""

    inlining: Inlining = Inlining()
    values: list[Value] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    constants: list[tuple[int, Any]] = field(default_factory=list)
    stamp: Stamp = Stamp()
    sources: Sources = field(default_factory=Sources)
    _seen: dict[int, _Emitted] = field(default_factory=dict)
    _literals: dict[int, tuple[Any, Literal]] = field(default_factory=dict)
    _types: dict[Any, Value] = field(default_factory=dict)
    _calls: dict[Any, Any] = field(default_factory=dict)

    def value(self, aval: Any) -> int:
        """A new value of that abstract value."""
        return self.typed(self._type(aval))

    def typed(self, value: Value) -> int:
        """A new value of that type."""
        self.values.append(value)
        return len(self.values) - 1

    def _type(self, aval: Any) -> Value:
        key = (aval.shape, aval.dtype)
        found = self._types.get(key)
        if found is None:
            found = self._types[key] = Value(tuple(aval.shape), name_of_dtype(aval.dtype))
        return found

    def constant(self, array: Any) -> int:
        """A value that holds an array of the program, the same one for the same array."""
        key = ("constant", id(array))
        if key not in self._calls:
            v = self.value(jax.typeof(array))
            self.constants.append((v, array))
            self._calls[key] = (v, array)
        return self._calls[key][0]

    def aval(self, operand: Operand) -> Any:
        """Shape and dtype of an operand."""
        if isinstance(operand, Literal):
            return jax.ShapeDtypeStruct(operand.shape, np.asarray(operand.value).dtype)
        return struct_of(self.values[operand])

    def inline(self, jaxpr: compat.Jaxpr, consts: Sequence[Any], args: Sequence[Operand]) -> list[Operand]:
        """Emit a jaxpr's equations applied to `consts` (arrays) and `args`; returns the operands of its outputs."""
        env: dict[Any, Operand] = {}
        for var, const in zip(jaxpr.constvars, consts, strict=True):
            env[var] = self.constant(const)
        env.update(zip(jaxpr.invars, args, strict=True))

        def look(atom: Any) -> Operand:
            return self.literal(atom) if isinstance(atom, compat.JaxprLiteral) else env[atom]

        for eqn in jaxpr.eqns:
            env.update(zip(eqn.outvars, self.equation(eqn, [look(a) for a in eqn.invars]), strict=True))
        return [look(a) for a in jaxpr.outvars]

    def literal(self, atom: Any) -> Operand:
        """The operand for a literal of a jaxpr."""
        known = self._literals.get(id(atom))
        if known is None:
            array = np.asarray(atom.val, dtype=atom.aval.dtype)
            if array.size > LARGEST_LITERAL:
                return self.constant(array)
            found = Literal(array, tuple(array.shape), name_of_dtype(atom.aval.dtype))
            known = self._literals[id(atom)] = (atom, found)  # holding the atom keeps its id taken
        return known[1]

    def equation(self, eqn: Any, operands: list[Operand]) -> list[Operand]:
        """Emit one equation, or what it is inlined to; returns the operands of its results."""
        name = eqn.primitive.name
        if name in CALLS:
            return self._inside(eqn, operands)
        if name in DIFFERENTIATED_CALLS and not self.inlining.keep_calls:
            if name in CHECKPOINTS and eqn.params["differentiated"]:
                operands = self._barrier(operands, _held_back(eqn.params["prevent_cse"], len(operands)))
            return self._inside(eqn, operands)
        if name == "scan" and self.inlining.unroll is not None:
            outside = self.stamp
            self.stamp = replace(outside, fallback=self._stamped(self.sources.of(eqn)))
            unrolled = self.inlining.unroll(self, eqn, operands)
            self.stamp = outside
            if unrolled is not None:
                return unrolled
        return list(self.add(eqn, operands))

    def add(self, eqn: Any, operands: Sequence[Operand]) -> tuple[int, ...]:
        """Emit one equation as one operator; returns its results."""
        said = self._seen.get(id(eqn)) or self._look_into(eqn)
        results = tuple(range(len(self.values), len(self.values) + len(said.results)))
        self.values += said.results
        self.ops.append(Op(said.primitive, tuple(operands), results, said.params, said.bodies,
                           self._stamped(said.source), self.stamp.phase, self.stamp.origin, said.payload))
        return results

    def call(self, key: Any, fn: Callable[..., Any], *operands: Operand) -> list[Operand]:
        """Emit what a JAX function does to some operands. `key` names the function with its static arguments."""
        full_key = (key, tuple(self.values[o] if isinstance(o, int) else (o.shape, o.dtype) for o in operands))
        if full_key not in self._calls:
            self._calls[full_key] = jax.make_jaxpr(fn)(*(self.aval(o) for o in operands))
        closed = self._calls[full_key]
        return self.inline(closed.jaxpr, closed.consts, operands)

    def graph(self, inputs: Sequence[Input], outputs: Sequence[Output]) -> Graph:
        """The finished graph."""
        return Graph(tuple(self.values), tuple(self.ops), tuple(inputs), tuple(outputs), tuple(self.constants))

    def _stamped(self, source: str) -> str:
        return (source if self.stamp.source is None else self.stamp.source) or self.stamp.fallback

    def _inside(self, eqn: Any, operands: list[Operand]) -> list[Operand]:
        """Emit the body of a call in its place, each operator with a source that the user knows."""
        outside = self.stamp
        here = self._stamped(self.sources.of(eqn))
        body = body_of(eqn.params)
        library = is_machinery(compat.file_of(getattr(body, "jaxpr", body)))
        self.stamp = replace(outside, source=here if library and here else outside.source, fallback=here)
        try:
            return self.inline_body(eqn.params, operands)
        finally:
            self.stamp = outside

    def inline_body(self, params: Mapping[str, Any], operands: list[Operand]) -> list[Operand]:
        """Emit the body of a call with these parameters."""
        body = body_of(params)
        jaxpr, consts = (body.jaxpr, body.consts) if isinstance(body, compat.ClosedJaxpr) else (body, ())
        return self.inline(jaxpr, consts, operands)

    def _barrier(self, operands: list[Operand], flags: Sequence[bool]) -> list[Operand]:
        """The operands behind optimisation barriers, so that the compiler cannot undo a recomputation: each behind one
        of its own, as an operator shards one dimension over an axis, and here every operand has such."""
        return [self.call("barrier", jax.lax.optimization_barrier, o)[0] if flag and isinstance(o, int) else o
                for o, flag in zip(operands, flags, strict=True)]

    def _look_into(self, eqn: Any) -> _Emitted:
        name = "checkpoint" if eqn.primitive.name in CHECKPOINTS else eqn.primitive.name
        payload = Bound(eqn.primitive, MappingProxyType(dict(eqn.params)))
        bodies = tuple(body_graph(b) for b in bodies_of(eqn))
        params = MappingProxyType(compat.told_params(eqn))
        results = tuple(self._type(v.aval) for v in eqn.outvars)
        found = _Emitted(eqn, name, payload, params, bodies, self.sources.of(eqn), results)
        self._seen[id(eqn)] = found
        return found


def _held_back(prevent_cse: Any, count: int) -> tuple[bool, ...]:
    """Per operand of a checkpoint, whether it goes behind the barrier; JAX keeps one flag, or one per operand."""
    return (prevent_cse,) * count if isinstance(prevent_cse, bool) else tuple(prevent_cse)


def body_of(params: Mapping[str, Any]) -> Any:
    """The jaxpr that a call with these parameters calls."""
    return next(params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in params)


def bodies_of(eqn: Any) -> list[Any]:
    """The nested jaxprs of an equation that `Op.bodies` shows."""
    found: list[Any] = []
    for name in BODY_PARAMS.get(eqn.primitive.name, ()):
        body = eqn.params[name]
        found.extend(body if isinstance(body, tuple) else (body,))
    return found


def body_graph(body: Any) -> Graph:
    """A nested jaxpr as a graph with everything inlined: inputs BATCH `"in/i"`, outputs AUX `"out/i"`."""
    jaxpr, consts = (body.jaxpr, body.consts) if isinstance(body, compat.ClosedJaxpr) else (body, ())
    builder = Builder()
    args = [builder.value(v.aval) for v in jaxpr.invars]
    outs = builder.inline(jaxpr, consts, args)
    return builder.graph([Input(v, Role.BATCH, f"in/{n}") for n, v in enumerate(args)],
                         [Output(o, Role.AUX, f"out/{n}") for n, o in enumerate(outs)])
