"""The reverse rule of one operator, as a small graph that replaces it: made once per kind, emitted many times.

JAX differentiates the single operator (`jax.vjp`) on abstract values; the result is split by what depends on what. What
the operator's own results need is forward; everything else is backward, so that what is stored between the two is the
operator's inputs and results wherever its derivative can be had from them cheaply. Only heavy work that needs no
cotangent (a dot, a convolution, random numbers, a loop: the residuals of a custom rule) stays in the forward.

Flows in: an `Op`, which operands need gradients and which results have cotangents. Flows out: a `Reverse`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import numpy as np

from planner.core.graph import Graph, Input, Literal, Op, Operand, Output, Role, Value
from planner.errors import TraceError
from planner.trace.builder import Builder
from planner.trace.dtypes import is_inexact, struct_of
from planner.trace.jaxpr import without_dead_ops

HEAVY = frozenset({"dot_general", "ragged_dot_general", "conv_general_dilated", "scan", "while", "cond", "sort", "fft",
                   "random_bits", "random_gamma", "threefry2x32", "rng_bit_generator", "cholesky", "eigh", "svd", "lu"})
"""Primitives too dear to run a second time in the backward."""


@dataclass(frozen=True)
class Reverse:
    """What replaces an operator once it is differentiated.

    Attributes:
      graph: inputs are the operator's value operands, then the cotangents given; outputs its results, then the
        cotangents wanted, None where a cotangent is known to be zero.
      forward: which of `graph.ops` are forward (by index).
      results: operands of `graph` for the operator's results.
      cotangents: operands of `graph`, one per wanted cotangent; None for zero.
    """

    graph: Graph
    forward: frozenset[int]
    results: tuple[Operand, ...]
    cotangents: tuple[Operand | None, ...]

    @cached_property
    def inputs(self) -> tuple[int, ...]:
        """The values of the inputs of `graph`."""
        return tuple(i.value for i in self.graph.inputs)


@dataclass
class ReverseRules:
    """Reverse rules, cached by primitive, parameters, operand shapes, literals, wanted and given."""

    _rules: dict[Any, Reverse] = field(default_factory=dict)
    _param_keys: dict[int, tuple[Any, Any]] = field(default_factory=dict)

    def of(self, op: Op, types: Sequence[Value], wanted: tuple[int, ...], given: tuple[int, ...]) -> Reverse:
        """The rule of `op`.

        Args:
          op: the operator.
          types: shape and dtype of every value of its graph.
          wanted: positions of the operands whose cotangents are wanted.
          given: positions of the results that have a cotangent; the others' are zero.

        Raises:
          TraceError: if JAX cannot differentiate it.
        """
        ends = tuple([types[o] if isinstance(o, int) else (o.value.tobytes(), o.shape, o.dtype) for o in op.operands])
        key = (op.primitive, self._params_key(op), ends, wanted, given)
        found = self._rules.get(key)
        if found is None:
            found = self._rules[key] = _make_rule(op, types, wanted, given)
        return found

    def _params_key(self, op: Op) -> Any:
        known = self._param_keys.get(id(op.params))
        if known is None:
            key = tuple((name, _value_key(v)) for name, v in sorted(op.params.items()))
            known = self._param_keys[id(op.params)] = (key, op.params)  # holding the params keeps their id taken
        return known[0]


def _value_key(value: Any) -> Any:
    if isinstance(value, str | int | float | bool | bytes | np.dtype | type(None)):
        return value
    if isinstance(value, tuple | list):
        return tuple(_value_key(v) for v in value)
    try:
        return (type(value).__name__, hash(value), value)
    except TypeError:
        return (type(value).__name__, id(value))


def _make_rule(op: Op, types: Sequence[Value], wanted: tuple[int, ...], given: tuple[int, ...]) -> Reverse:
    places = [n for n, o in enumerate(op.operands) if isinstance(o, int)]
    result_avals = [struct_of(types[v]) for v in op.results]
    given_avals = [result_avals[n] for n in given]

    def both(values: list[Any], cotangents: list[Any]) -> tuple[list[Any], list[Any]]:
        full = [o.value if isinstance(o, Literal) else None for o in op.operands]
        for n, value in zip(places, values, strict=True):
            full[n] = value

        def primal(*chosen: Any) -> list[Any]:
            operands = list(full)
            for n, x in zip(wanted, chosen, strict=True):
                operands[n] = x
            return op.payload.bind(operands)

        outs, pull = jax.vjp(primal, *(full[n] for n in wanted))
        seeds = dict(zip(given, cotangents, strict=True))
        return outs, list(pull([seeds[n] if n in seeds else _zero(a) for n, a in enumerate(result_avals)]))

    try:
        closed = jax.make_jaxpr(both)([struct_of(types[v]) for v in op.inputs], given_avals)
    except Exception as error:  # whatever JAX, or the user's custom rule, raises while it differentiates
        where = f" at {op.source}" if op.source else ""
        raise TraceError(f"the gradient through {op.primitive}{where} cannot be formed: {type(error).__name__}: "
                         f"{str(error).strip().splitlines()[0] if str(error).strip() else ''}", _mend(op)) from error
    return _split(closed, len(places), len(op.results))


def _zero(aval: Any) -> Any:
    if is_inexact(str(aval.dtype)):
        return jax.numpy.zeros(aval.shape, aval.dtype)
    return np.zeros(aval.shape, jax.dtypes.float0)


def _mend(op: Op) -> str:
    if op.primitive == "while":
        return "use lax.scan, or fori_loop with bounds known while tracing; or put lax.stop_gradient around its inputs"
    return "give it a derivative with jax.custom_vjp, or put lax.stop_gradient around its inputs"


def _split(closed: Any, n_args: int, n_results: int) -> Reverse:
    builder = Builder()
    inputs = [builder.value(v.aval) for v in closed.jaxpr.invars]
    outs = builder.inline(closed.jaxpr, closed.consts, inputs)
    results, cotangents = tuple(outs[:n_results]), list(outs[n_results:])
    zeros = _zero_values(builder.ops)
    wanted = tuple(None if _is_zero(c, zeros) else c for c in cotangents)
    labelled = [Output(o, Role.AUX, "") for o in (*results, *(c for c in wanted if c is not None))]
    graph = without_dead_ops(builder.graph([Input(v, Role.BATCH, "") for v in inputs], labelled))
    return Reverse(graph, _forward_ops(graph, results, frozenset(inputs[n_args:])), results, wanted)


def _forward_ops(graph: Graph, results: Sequence[Operand], cotangents: frozenset[int]) -> frozenset[int]:
    """The operators that results need, and the heavy ones that need no cotangent, with what those need. What is made
    again behind a barrier (`jax.checkpoint`) is made in the backward."""
    late = set(cotangents)
    for op in graph.ops:
        if late.intersection(op.inputs) or op.primitive == "optimization_barrier":
            late.update(op.results)
    needed = {o for o in results if isinstance(o, int)}
    forward = set()
    for n in reversed(range(len(graph.ops))):
        op = graph.ops[n]
        if needed.intersection(op.results) or (op.primitive in HEAVY and not late.intersection(op.results)):
            forward.add(n)
            needed.update(op.inputs)
    return frozenset(forward)


def _zero_values(ops: Sequence[Op]) -> frozenset[int]:
    found: set[int] = set()
    for op in ops:
        if op.primitive in ("broadcast_in_dim", "convert_element_type", "neg") and _is_zero(op.operands[0], found):
            found.update(op.results)
    return frozenset(found)


def _is_zero(operand: Operand, zeros: frozenset[int] | set[int]) -> bool:
    return not operand.value.any() if isinstance(operand, Literal) else operand in zeros
