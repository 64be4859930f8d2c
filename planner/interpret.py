"""Run a graph: bind each operator's payload, in order, over an environment of values.

Flows in: operators and arrays (or tracers: everything here works under `jax.jit`). Flows out: arrays. The only module
that opens an operator's `payload`, which is a `Bound`: a JAX primitive with its parameters. The idea is the evaluator
of JAX's autodidax (https://docs.jax.dev/en/latest/autodidax.html), over our graph instead of a jaxpr.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from planner import compat
from planner.core.graph import Graph, Literal, Op, Operand

ResultHook = Callable[[int, Op, list[Any]], Sequence[Any]]
"""(operator index, operator, its results) -> what to store instead, e.g. results with a sharding constraint."""

OperandHook = Callable[[int, Op, list[Any]], Sequence[Any]]
"""(operator index, operator, its operands) -> what to feed the operator instead."""

Scope = Callable[[int, Op], AbstractContextManager[Any]]
"""(operator index, operator) -> what is entered around the operator and its hooks, e.g. a name for the compiler."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What an operator executes: a JAX primitive and the parameters of its equation."""

    primitive: Any
    params: MappingProxyType[str, Any]

    def bind(self, operands: Sequence[Any]) -> list[Any]:
        """Execute (or trace) the primitive; always a list of results."""
        out = compat.bind(self.primitive, dict(self.params), operands)
        return list(out) if self.primitive.multiple_results else [out]


def read(operand: Operand, env: dict[int, Any]) -> Any:
    """The array of an operand."""
    return operand.value if isinstance(operand, Literal) else env[operand]


def run_ops(ops: Iterable[tuple[int, Op]] | Sequence[Op], env: dict[int, Any], *, hook: ResultHook | None = None,
            operand_hook: OperandHook | None = None, scope: Scope | None = None) -> None:
    """Execute operators in order, reading and writing `env` (value index -> array).

    Args:
      ops: operators, or (index, operator) pairs where the hooks shall see the index in a larger graph.
      env: holds every value that the operators read and do not produce; results are added.
      hook: called after each operator with (index, operator, results); its return value is stored.
      operand_hook: called before each operator with (index, operator, operands); its return value is what is bound.
      scope: entered around each operator and its hooks.

    Raises:
      KeyError: if an operator reads a value that is not in `env`.
    """
    for n, item in enumerate(ops):
        index, op = (n, item) if isinstance(item, Op) else item
        operands = [read(o, env) for o in op.operands]
        with nullcontext() if scope is None else scope(index, op):
            if operand_hook is not None:
                operands = list(operand_hook(index, op, operands))
            results = op.payload.bind(operands)
            if hook is not None:
                results = list(hook(index, op, results))
        env.update(zip(op.results, results, strict=True))


def run_graph(graph: Graph, inputs: Sequence[Any], *, hook: ResultHook | None = None,
              operand_hook: OperandHook | None = None) -> list[Any]:
    """Execute a whole graph.

    Args:
      graph: the graph.
      inputs: one array per `graph.inputs`, in order.
      hook, operand_hook: see `run_ops`.

    Returns:
      One array per `graph.outputs`, in order.

    Raises:
      ValueError: if the number of inputs is wrong.
    """
    if len(inputs) != len(graph.inputs):
        raise ValueError(f"{len(inputs)} inputs given for a graph of {len(graph.inputs)}")
    env: dict[int, Any] = dict(graph.constants)
    env.update({i.value: x for i, x in zip(graph.inputs, inputs, strict=True)})
    run_ops(graph.ops, env, hook=hook, operand_hook=operand_hook)
    return [_as_array(o.operand, env) for o in graph.outputs]


def _as_array(operand: Operand, env: dict[int, Any]) -> Any:
    if isinstance(operand, Literal):
        return jax.numpy.broadcast_to(np.asarray(operand.value), operand.shape)
    return env[operand]
