"""A digest of a program's structure, the same in every process and on every machine.

Flows in: graphs. Flows out: hex text. What counts: operators, their static parameters, operands, shapes, dtypes,
bodies, inputs and outputs, literals. What does not: source lines, payloads, the numbers in constants, memory addresses.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any, cast

import numpy as np

from planner.core.graph import Graph, Literal, Op, Operand, Program

_SKIPPED = frozenset({"name", "ctx_mesh", "debug_info", "sharding", "out_sharding", "accuracy"})
"""Parameters that say nothing of what is computed, or that newer versions of JAX spell differently."""


def fingerprint(kind: str, microbatches: int, graphs: Iterable[Graph | None], *, numbers: bool = True) -> str:
    """SHA-256 (hex) over the structure of the graphs of a program; `numbers`: over those in literals as well."""
    digest = hashlib.sha256(f"{kind} {microbatches}\n".encode())
    for graph in graphs:
        digest.update((graph_text(graph, numbers=numbers) if graph is not None else "none").encode())
    return digest.hexdigest()


def named(program: Program) -> Program:
    """The program with its fingerprint."""
    graphs = (program.forward, program.micro, program.update) if program.kind == "train" else (program.forward,)
    return replace(program, fingerprint=fingerprint(program.kind, program.microbatches, graphs))


def graph_text(graph: Graph, *, numbers: bool = True) -> str:
    """A graph as stable text: values are numbered by first appearance, so unused indices do not matter."""
    names: dict[int, int] = {}
    memo: dict[int, str] = {}

    def name(operand: Operand) -> str:
        if isinstance(operand, Literal):
            if not numbers:
                return f"{list(operand.shape)}:{operand.dtype}"
            return f"{np.asarray(operand.value).tolist()!r}:{operand.dtype}"
        return f"%{names.setdefault(operand, len(names))}"

    def typed(value: int) -> str:
        return f"{name(value)}:{graph.values[value].dtype}{list(graph.values[value].shape)}"

    lines = [f"in {i.role} {i.path} {i.row} {typed(i.value)}" for i in graph.inputs]
    lines += [f"const {typed(v)}" for v, _ in graph.constants]
    for op in graph.ops:
        results = " ".join(typed(v) for v in op.results)
        static = _static_text(op, memo, numbers=numbers)
        lines.append(f"{results} = {op.primitive} {' '.join(map(name, op.operands))} {static}")
    lines += [f"out {o.role} {o.path} {o.row} {name(o.operand)}" for o in graph.outputs]
    return "\n".join(lines) + "\n"


def _static_text(op: Op, memo: dict[int, str], *, numbers: bool) -> str:
    """Parameters and bodies; operators that share their parameters (unrolled iterations) are described once."""
    if id(op.params) not in memo:
        bodies = "".join(f"{{\n{graph_text(body, numbers=numbers)}}}" for body in op.bodies)
        memo[id(op.params)] = f"{params_text(op.params)} {bodies}"
    return memo[id(op.params)]


def params_text(params: Mapping[str, Any]) -> str:
    """Static parameters as stable text; functions and nested jaxprs are left out (bodies tell of those)."""
    parts = [(k, value_text(v)) for k, v in sorted(params.items()) if k not in _SKIPPED]
    return " ".join(f"{k}={text}" for k, text in parts if text is not None)


def value_text(value: Any) -> str | None:
    """A static parameter as stable text; None for functions, nested jaxprs, and what names an address."""
    if isinstance(value, str | int | float | bool | type(None)):
        return str(value)
    if isinstance(value, np.dtype):
        return str(cast(Any, value))
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, tuple | list):
        return f"({', '.join(t for t in map(value_text, cast(Sequence[Any], value)) if t is not None)})"
    if isinstance(value, np.ndarray | np.generic):
        return repr(cast(Any, value).tolist())
    if isinstance(value, type):
        return value.__name__
    text = repr(value)
    told_by_bodies = callable(value) or "jaxpr" in type(value).__name__.lower()
    return None if told_by_bodies or " at 0x" in text else text
