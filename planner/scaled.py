"""The program of another batch size, from two that were traced: what a search looks at, tracing no more than it has to.

Programs of one model that differ in the size of their microbatches have the same operators, as long as no dimension is
special (a batch of one often is), and every extent is affine in that size: a·n + b. Two traced programs give a and b
of each. Whatever is not so, becomes one where it was none, or differs in anything but extents, is not made up: then the
caller has to trace. The numbers in literals are those of the first program, and what executes an operator is left out;
`same` tells whether a traced program is what was foreseen.

In: two `Program`s, the sizes they are for, another size. Out: a `Program` without a fingerprint, or None.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import numpy as np

from planner.core.graph import Graph, Literal, Op, Operand, Program, Value


class _UnlikeError(Exception):
    """The two programs do not differ in extents alone, or not affinely."""


@dataclass(frozen=True)
class Sizes:
    """Samples in a microbatch of the two programs that are known, and of the one that is wanted."""

    first: int
    second: int
    wanted: int

    @property
    def share(self) -> Fraction:
        """How far the wanted size lies from the first to the second; below 0 or above 1 outside of them."""
        return Fraction(self.wanted - self.first, self.second - self.first)


def scaled(first: Program, second: Program, sizes: Sizes, microbatches: int) -> Program | None:
    """The program of that many microbatches of the wanted size; None where it has to be traced."""
    if first.kind != second.kind or sizes.first == sizes.second:
        return None
    fit = _Fit(sizes.share)
    try:
        forward = fit.graph(first.forward, second.forward)
        micro = forward if first.micro is first.forward else fit.graph(first.micro, second.micro)
    except _UnlikeError:
        return None
    return Program(first.kind, forward, micro, first.update, microbatches, "", first.warnings)


def same(foreseen: Program, traced: Program) -> bool:
    """Whether a traced program is what was foreseen: but for numbers in literals and what executes operators."""
    return all(a == b and all(_alike(x.params, y.params) for x, y in zip(a.ops, b.ops, strict=True))
               for a, b in ((foreseen.forward, traced.forward), (foreseen.micro, traced.micro)))


def _alike(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return a is b or (a.keys() == b.keys() and all(_equal(a[k], b[k]) or _is_opaque(a[k]) for k in a))


def _equal(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except ValueError:  # arrays, of which each element is compared
        return np.array_equal(a, b)


def _is_opaque(value: Any) -> bool:
    """Functions, nested programs and addresses: they say nothing that the bodies of an operator do not say."""
    kind = type(value).__name__.lower()
    return callable(value) or "jaxpr" in kind or "wrappedfun" in kind or " at 0x" in repr(value)


@dataclass
class _Fit:
    """What was fitted so far, at a share of the way from the first to the second. Operators of repeated layers share
    their parameters, and most values their types."""

    share: Fraction
    values: dict[tuple[Value, Value], Value] = field(default_factory=dict[tuple[Value, Value], Value])
    params: dict[tuple[int, int], MappingProxyType[str, Any]] = field(
        default_factory=dict[tuple[int, int], MappingProxyType[str, Any]])
    bodies: dict[tuple[int, int], Graph] = field(default_factory=dict[tuple[int, int], Graph])

    def graph(self, a: Graph, b: Graph) -> Graph:
        """A graph between (or beyond) two."""
        if len(a.values) != len(b.values) or len(a.ops) != len(b.ops) or a.inputs != b.inputs or \
                [(o.role, o.path, o.row) for o in a.outputs] != [(o.role, o.path, o.row) for o in b.outputs] or \
                [v for v, _ in a.constants] != [v for v, _ in b.constants] or a.cotangent_of != b.cotangent_of:
            raise _UnlikeError
        ops = tuple(self.op(x, y) for x, y in zip(a.ops, b.ops, strict=True))
        outputs = tuple(replace(x, operand=self.operand(x.operand, y.operand))
                        for x, y in zip(a.outputs, b.outputs, strict=True))
        return replace(a, values=tuple(self.value(x, y) for x, y in zip(a.values, b.values, strict=True)), ops=ops,
                       outputs=outputs)

    def value(self, a: Value, b: Value) -> Value:
        """The type of a value."""
        found = self.values.get((a, b))
        if found is None:
            if a.dtype != b.dtype:
                raise _UnlikeError
            found = self.values[a, b] = a if a == b else Value(self.of(a.shape, b.shape), a.dtype)
        return found

    def op(self, a: Op, b: Op) -> Op:
        """An operator; the first program's own where nothing about it changes."""
        if a.primitive != b.primitive or a.results != b.results or a.origin != b.origin or a.phase is not b.phase or \
                len(a.operands) != len(b.operands) or len(a.bodies) != len(b.bodies) or a.source != b.source:
            raise _UnlikeError
        operands = a.operands if a.operands == b.operands else \
            tuple(self.operand(x, y) for x, y in zip(a.operands, b.operands, strict=True))
        params = self.shared_params(a, b)
        bodies = tuple(self.body(x, y) for x, y in zip(a.bodies, b.bodies, strict=True)) if a.bodies else a.bodies
        if operands is a.operands and params is a.params and all(x is y for x, y in zip(bodies, a.bodies, strict=True)):
            return a
        return Op(a.primitive, operands, a.results, params, bodies, a.source, a.phase, a.origin, None)

    def operand(self, a: Operand, b: Operand) -> Operand:
        """What an operator reads."""
        if isinstance(a, Literal) and isinstance(b, Literal):
            typed = self.value(Value(a.shape, a.dtype), Value(b.shape, b.dtype))
            return a if typed.shape == a.shape else Literal(a.value, typed.shape, a.dtype)
        if a != b:
            raise _UnlikeError
        return a

    def body(self, a: Graph, b: Graph) -> Graph:
        """A nested graph, which repeated operators share."""
        if a is b or a == b:
            return a
        key = (id(a), id(b))
        if key not in self.bodies:
            self.bodies[key] = self.graph(a, b)
        return self.bodies[key]

    def shared_params(self, a: Op, b: Op) -> MappingProxyType[str, Any]:
        """Static parameters, the first program's own mapping where they do not change."""
        if a.params is b.params:
            return a.params
        key = (id(a.params), id(b.params))
        if key not in self.params:
            if a.params.keys() != b.params.keys():
                raise _UnlikeError
            found = {k: self.of(v, b.params[k]) for k, v in a.params.items()}
            self.params[key] = a.params if all(found[k] is v for k, v in a.params.items()) else MappingProxyType(found)
        return self.params[key]

    def of(self, a: Any, b: Any) -> Any:
        """A parameter, or part of one: extents are fitted, all else has to be equal."""
        if a is b:
            return a
        if type(a) is not type(b):
            raise _UnlikeError
        if type(a) is int:
            return a if a == b else self._extent(a, b)
        if isinstance(a, tuple | list) and len(a) == len(b):
            parts = [self.of(x, y) for x, y in zip(a, b, strict=True)]
            if all(x is y for x, y in zip(parts, a, strict=True)):
                return a
            return type(a)(*parts) if hasattr(a, "_fields") else type(a)(parts)
        if _equal(a, b) or _is_opaque(a):
            return a
        raise _UnlikeError

    def _extent(self, a: int, b: int) -> int:
        found = a + (b - a) * self.share
        if found.denominator != 1 or found < 0 or (found == 1 and 1 not in (a, b)):
            raise _UnlikeError
        return int(found)
