"""The operator graph: a jaxpr as plain frozen data, in one static-single-assignment list of operators.

`trace/` builds it, `rules/` describe its operators by factors, everything later reads it. It imports no JAX: the jaxpr
equation that an operator came from rides along as an opaque `payload` that only `interpret.py` opens.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from types import MappingProxyType
from typing import Any


class Phase(StrEnum):
    """Which part of a training step an operator belongs to."""

    FORWARD = "forward"
    BACKWARD = "backward"
    UPDATE = "update"


class Role(StrEnum):
    """What a graph input or output is to the user."""

    PARAM = "param"
    OPT_STATE = "opt_state"
    STATE = "state"  # carried beside the parameters: batch statistics, dropout keys; all of a train step's state
    BATCH = "batch"
    CONST = "const"  # array closed over by the user's function
    GRAD = "grad"
    LOSS = "loss"
    AUX = "aux"  # metrics, or the outputs of an inference function


@dataclass(frozen=True, slots=True)
class Value:
    """One tensor. `dtype` is the NumPy/ml_dtypes name (`"bfloat16"`), or `"key<fry>"` for a typed PRNG key."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Literal:
    """A scalar (or small array) written into the program."""

    value: Any = field(compare=False)
    shape: tuple[int, ...]
    dtype: str


Operand = int | Literal
"""What an operator reads: the index of a value in `Graph.values`, or a literal."""


@dataclass(frozen=True, slots=True)
class Op:
    """One operator: `results = primitive(operands, **params)`.

    Attributes:
      primitive: JAX's name of the primitive (`"dot_general"`).
      operands: value indices and literals, in order.
      results: value indices, in order; each value has exactly one producer.
      params: the equation's static parameters, by name (read by the rules; values are opaque).
      bodies: nested graphs: scan `(body,)`, while `(cond, body)`, cond `(branch, ...)`, custom_jvp/vjp and remat
        `(body,)`.
      source: the user's `file.py:line (function)`, or "".
      phase: forward, backward or update.
      origin: index of the forward operator this one belongs to, counted over the operators of the *forward* graph
        before differentiation. A backward operator has the origin of the operator it differentiates; -1 where there
        is none (update operators).
      payload: the jaxpr equation; opened by `interpret.py` alone.
    """

    primitive: str
    operands: tuple[Operand, ...]
    results: tuple[int, ...]
    params: MappingProxyType[str, Any] = field(compare=False)
    bodies: tuple["Graph", ...] = ()
    source: str = ""
    phase: Phase = Phase.FORWARD
    origin: int = -1
    payload: Any = field(default=None, compare=False, repr=False)

    @property
    def inputs(self) -> tuple[int, ...]:
        """The value indices among the operands (literals left out)."""
        return tuple([o for o in self.operands if isinstance(o, int)])


@dataclass(frozen=True, slots=True)
class Input:
    """A graph input. `path` is its place in the user's pytree (`"params/blocks/0/wq"`).

    `row` is set where a leaf stacked over layers (`lax.scan` over layers) was split: this input is `leaf[row]`.
    """

    value: int
    role: Role
    path: str
    row: int | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """A graph output. For `Role.GRAD`, `path`/`row` name the parameter; several outputs may contribute to one."""

    operand: Operand
    role: Role
    path: str
    row: int | None = None


@dataclass(frozen=True)
class Graph:
    """Operators in execution order over a table of values."""

    values: tuple[Value, ...]
    ops: tuple[Op, ...]
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    constants: tuple[tuple[int, Any], ...] = field(default=(), compare=False)
    cotangent_of: tuple[tuple[int, int], ...] = ()
    """Pairs (forward value, its total cotangent value), for a differentiated graph."""

    def check(self) -> None:
        """Raise `ValueError` unless the graph is well formed: single assignment, defined before use, indices in
        range."""
        defined = {i.value for i in self.inputs} | {v for v, _ in self.constants}
        for n, op in enumerate(self.ops):
            for v in op.inputs:
                if v not in defined:
                    raise ValueError(f"operator {n} ({op.primitive}) reads value {v} before it is defined")
            for v in op.results:
                if v in defined:
                    raise ValueError(f"operator {n} ({op.primitive}) defines value {v} a second time")
                if not 0 <= v < len(self.values):
                    raise ValueError(f"operator {n} ({op.primitive}) defines value {v}, which has no type")
                defined.add(v)
            for body in op.bodies:
                body.check()
        for out in self.outputs:
            if isinstance(out.operand, int) and out.operand not in defined:
                raise ValueError(f"output {out.path!r} reads value {out.operand}, which is never defined")

    @cached_property
    def producers(self) -> Mapping[int, int]:
        """Value -> index of the operator that produces it (inputs and constants are absent)."""
        return {v: n for n, op in enumerate(self.ops) for v in op.results}

    @cached_property
    def consumers(self) -> Mapping[int, Sequence[int]]:
        """Value -> indices of the operators that read it, each once, in order."""
        found: dict[int, list[int]] = {}
        for n, op in enumerate(self.ops):
            for v in dict.fromkeys(op.inputs):
                found.setdefault(v, []).append(n)
        return found

    @cached_property
    def kinds(self) -> tuple[int, ...]:
        """A number per operator, equal for those with equal primitive, parameters, bodies and types (of repeated
        layers): all that rules see."""
        types: dict[Value, int] = {}
        of_value = [types.setdefault(v, len(types)) for v in self.values]
        params: dict[int, int] = {}  # id, which the operator holds -> number
        said: dict[Hashable, int] = {}
        seen: dict[Hashable, int] = {}
        found: list[int] = []
        for op in self.ops:
            number = params.get(id(op.params))
            if number is None:
                number = params[id(op.params)] = said.setdefault(_hashable(op.params), len(said))
            ends = tuple([of_value[o] if isinstance(o, int) else (o.shape, o.dtype) for o in op.operands])
            key = (op.primitive, number, id(op.bodies), ends, tuple([of_value[r] for r in op.results]))
            found.append(seen.setdefault(key, len(seen)))
        return tuple(found)

    @cached_property
    def contributions(self) -> Mapping[tuple[str, int | None], tuple[int, ...]]:
        """(path, row) of a parameter -> the values whose sum is its gradient."""
        found: dict[tuple[str, int | None], tuple[int, ...]] = {}
        for o in self.outputs_of(Role.GRAD):
            if isinstance(o.operand, int):
                found[o.path, o.row] = (*found.get((o.path, o.row), ()), o.operand)
        return found

    def inputs_of(self, role: Role) -> Iterator[Input]:
        """The inputs of one role, in order."""
        return (i for i in self.inputs if i.role is role)

    def outputs_of(self, role: Role) -> Iterator[Output]:
        """The outputs of one role, in order."""
        return (o for o in self.outputs if o.role is role)


def _hashable(params: Mapping[str, Any]) -> Hashable:
    """Parameters by their contents, or by themselves where something in them has no hash."""
    contents = tuple(params.items())
    try:
        hash(contents)
    except TypeError:
        return id(params)
    return contents


@dataclass(frozen=True)
class Program:
    """What runs in one step of a model.

    Attributes:
      kind: `"train"` (loss, optimizer, gradients made by us), `"inference"` (forward only) or `"step"` (a train step
        the user wrote, planned as one SPMD stage with one microbatch).
      forward: the forward graph of one microbatch; `Op.origin` indexes its `ops`.
      micro: forward and backward of one microbatch (equal to `forward` unless kind is `"train"`). Outputs: LOSS, new
        STATE, AUX, and GRAD contributions: one output per (parameter, contributing operator); their sum is the
        gradient.
      update: inputs PARAM, OPT_STATE, GRAD (one per parameter, averaged over microbatches); outputs PARAM, OPT_STATE.
        None unless kind is `"train"`.
      microbatches: number of microbatches the batch was split into; shapes in `micro` are of one microbatch.
      fingerprint: hex digest of the structure of the graphs (not of the numbers in the parameters); empty where it was
        not asked for.
      warnings: what the user should know (operators without a rule, with name and source).
    """

    kind: str
    forward: Graph
    micro: Graph
    update: Graph | None
    microbatches: int
    fingerprint: str
    warnings: tuple[str, ...] = ()
