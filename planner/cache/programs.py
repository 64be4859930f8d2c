"""Traced programs kept on disk, so that a plan can be made anew without the model: all that a search reads of them.

What executes an operator (JAX's equations) and the numbers in constants are left out: such a program is planned, not
run. Programs of one model, traced for several numbers of microbatches, are found by the fingerprint of any of them.

In: `Program`s. Out: bytes, and `Program`s again that have the same fingerprint.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, cast

import numpy as np

from planner.cache.keys import digest, source_digest
from planner.cache.static import coded, decoded
from planner.cache.store import Cache
from planner.core.fingerprint import named
from planner.core.graph import Graph, Input, Literal, Op, Output, Phase, Program, Role, Value

KIND = "program"


def keep_programs(cache: Cache, programs: Sequence[Program]) -> None:
    """Keep the programs of one model; each is found by its fingerprint, and tells of the others."""
    prints = [p.fingerprint for p in programs]
    for program in programs:
        body = {"others": prints, "program": _Writer().program(program)}
        cache.put(KIND, _key(program.fingerprint), json.dumps(body, separators=(",", ":")).encode())


def kept_programs(cache: Cache, known: str) -> dict[int, Program]:
    """The programs of the model of which one has that fingerprint, by microbatches; empty if that one is not kept."""
    found: dict[int, Program] = {}
    first = _kept(cache, known)
    for other in first[1] if first is not None else ():
        read = first if other == known else _kept(cache, other)
        if read is not None:
            found[read[0].microbatches] = read[0]
    return found


def _kept(cache: Cache, known: str) -> tuple[Program, list[str]] | None:
    content = cache.get(KIND, _key(known))
    if content is None:
        return None
    try:
        body: dict[str, Any] = json.loads(content)
        return _Reader(body["program"]).program(known), list(body["others"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as fault:
        cache.forget(KIND, _key(known), f"no program: {fault}")
        return None


def _key(known: str) -> str:
    """A fingerprint says nothing of how a graph is differentiated and annotated: the code counts as well."""
    return digest(KIND, known, source_digest())


def for_microbatches(program: Program, count: int) -> Program:
    """The program of as many microbatches of the same size: of another batch."""
    if count == program.microbatches:
        return program
    return named(replace(program, microbatches=count))


@dataclass
class _Writer:
    """Graphs share what their operators share: parameters, bodies, source lines."""

    params: list[Any] = field(default_factory=list[Any])
    texts: dict[str, int] = field(default_factory=dict[str, int])
    _params_at: dict[int, int] = field(default_factory=dict[int, int])
    _bodies_at: dict[int, int] = field(default_factory=dict[int, int])
    bodies: list[Any] = field(default_factory=list[Any])

    def program(self, program: Program) -> dict[str, Any]:
        """All of it as plain data."""
        own = [None if g is None or (n and g is program.forward) else self.graph(g)
               for n, g in enumerate((program.forward, program.micro, program.update))]
        return {"kind": program.kind, "microbatches": program.microbatches, "warnings": list(program.warnings),
                "forward": own[0], "micro": own[1], "update": own[2], "params": self.params, "bodies": self.bodies,
                "texts": list(self.texts)}

    def graph(self, graph: Graph) -> dict[str, Any]:
        """One graph; types of values once each."""
        types: dict[Value, int] = {}
        values = [types.setdefault(v, len(types)) for v in graph.values]
        return {"types": [[list(v.shape), v.dtype] for v in types], "values": values,
                "ops": [self._op(op) for op in graph.ops],
                "inputs": [[i.value, i.role.value, i.path, i.row] for i in graph.inputs],
                "outputs": [[self._operand(o.operand), o.role.value, o.path, o.row] for o in graph.outputs],
                "constants": [v for v, _ in graph.constants], "cotangent_of": [list(p) for p in graph.cotangent_of]}

    def _op(self, op: Op) -> list[Any]:
        return [self._text(op.primitive), [self._operand(o) for o in op.operands], list(op.results), self._static(op),
                self._nested(op), self._text(op.source), self._text(op.phase.value), op.origin]

    def _static(self, op: Op) -> int:
        if id(op.params) not in self._params_at:
            self._params_at[id(op.params)] = len(self.params)
            self.params.append({name: coded(value) for name, value in op.params.items()})
        return self._params_at[id(op.params)]

    def _nested(self, op: Op) -> int:
        if not op.bodies:
            return -1
        if id(op.bodies) not in self._bodies_at:
            found = [self.graph(body) for body in op.bodies]
            self._bodies_at[id(op.bodies)] = len(self.bodies)
            self.bodies.append(found)
        return self._bodies_at[id(op.bodies)]

    def _operand(self, operand: int | Literal) -> Any:
        if isinstance(operand, int):
            return operand
        return [np.asarray(operand.value).tolist(), list(operand.shape), operand.dtype]

    def _text(self, text: str) -> int:
        return self.texts.setdefault(text, len(self.texts))


class _Reader:
    """The way back."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data
        self._texts: list[str] = data["texts"]
        params: list[dict[str, Any]] = data["params"]
        self._params = [MappingProxyType({k: decoded(v) for k, v in p.items()}) for p in params]
        self._bodies: list[tuple[Graph, ...]] = []
        nested: list[list[dict[str, Any]]] = data["bodies"]
        for bodies in nested:  # those inside others were written first
            self._bodies.append(tuple(self._graph(b) for b in bodies))

    def program(self, known: str) -> Program:
        """The program of that fingerprint."""
        data = self._data
        forward = self._graph(data["forward"])
        micro = forward if data["micro"] is None else self._graph(data["micro"])
        update = None if data["update"] is None else self._graph(data["update"])
        return Program(data["kind"], forward, micro, update, data["microbatches"], known, tuple(data["warnings"]))

    def _graph(self, data: dict[str, Any]) -> Graph:
        types = [Value(tuple(shape), dtype) for shape, dtype in cast("list[tuple[list[int], str]]", data["types"])]
        given = cast("list[tuple[int, str, str, int | None]]", data["inputs"])
        made = cast("list[tuple[Any, str, str, int | None]]", data["outputs"])
        pairs = cast("list[tuple[int, int]]", data["cotangent_of"])
        values, ops = cast("list[int]", data["values"]), cast("list[Any]", data["ops"])
        return Graph(tuple(types[t] for t in values), tuple(self._op(op) for op in ops),
                     tuple(Input(v, Role(role), path, row) for v, role, path, row in given),
                     tuple(Output(_operand(o), Role(role), path, row) for o, role, path, row in made),
                     tuple((v, None) for v in data["constants"]), tuple((a, b) for a, b in pairs))

    def _op(self, data: Any) -> Op:
        row = cast("tuple[int, list[Any], list[int], int, int, int, int, int]", data)
        primitive, operands, results, params, bodies, source, phase, origin = row
        return Op(self._texts[primitive], tuple(_operand(o) for o in operands), tuple(results), self._params[params],
                  self._bodies[bodies] if bodies >= 0 else (), self._texts[source], Phase(self._texts[phase]), origin)


def _operand(data: Any) -> int | Literal:
    if isinstance(data, int):
        return data
    value, shape, dtype = cast("tuple[Any, list[int], str]", data)
    return Literal(value, tuple(shape), dtype)
