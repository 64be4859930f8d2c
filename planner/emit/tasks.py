"""The tasks of a graph as JAX functions, with the plan's sharding constraints inside.

In: a graph, `TaskCode`s (`cutting.py`), shardings. Out: functions of arrays.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
from jax.sharding import Mesh

from planner.core.graph import Graph, Literal, Op, Operand
from planner.core.spec import Spec
from planner.emit.cutting import TaskCode
from planner.emit.meshes import sharding
from planner.emit.names import operator_name
from planner.emit.payloads import Local
from planner.interpret import OperandHook, ResultHook, run_ops


@dataclass(frozen=True)
class Constraints:
    """Sharding constraints of one stage, as hooks of the interpreter.

    `specs`: value -> where its producer's result is constrained; `uses`: (operator, position) -> of an operand.
    """

    mesh: Mesh
    specs: Mapping[int, Spec] = field(default_factory=dict)
    uses: Mapping[tuple[int, int], Spec] = field(default_factory=dict)

    def value(self, value: int, array: Any) -> Any:
        """The array, constrained if the plan fixes that value."""
        return array if value not in self.specs else self.constrain(array, self.specs[value])

    def constrain(self, array: Any, spec: Spec) -> Any:
        """The array, constrained to a spec."""
        return jax.lax.with_sharding_constraint(array, sharding(self.mesh, spec))

    def result_hook(self) -> ResultHook:
        """Constrains results in `specs`."""
        return lambda _, op, results: [self.value(v, x) for v, x in zip(op.results, results, strict=True)]

    def operand_hook(self) -> OperandHook:
        """Constrains operands in `uses`."""
        positions: dict[int, list[int]] = {}
        for n, position in self.uses:
            positions.setdefault(n, []).append(position)

        def hook(n: int, _: Op, operands: list[Any]) -> list[Any]:
            for position in positions.get(n, ()):
                operands[position] = self.constrain(operands[position], self.uses[n, position])
            return operands

        return hook


def run_code(graph: Graph, ops: Sequence[int], env: dict[int, Any], constraints: Constraints) -> None:
    """Run some operators of a graph over `env` under constraints; values in `env` at the start are constrained too."""
    for v in list(env):
        env[v] = constraints.value(v, env[v])
    run_ops([(n, _placed(graph.ops[n], constraints.mesh)) for n in ops], env, hook=constraints.result_hook(),
            operand_hook=constraints.operand_hook(), scope=lambda n, op: jax.named_scope(operator_name(n, op)))


def _placed(op: Op, mesh: Mesh) -> Op:
    """The operator, its payload told the mesh if it has to know."""
    return replace(op, payload=op.payload.on(mesh)) if isinstance(op.payload, Local) else op


def task_function(graph: Graph, code: TaskCode, constraints: Constraints) -> Callable[..., tuple[Any, ...]]:
    """A JAX function: arrays of `code.reads` in order -> arrays of `code.makes` in order."""

    def run(*arrays: Any) -> tuple[Any, ...]:
        env = dict(zip(code.reads, arrays, strict=True))
        run_code(graph, code.ops, env, constraints)
        return tuple(env[v] for v in code.makes)

    return run


def output_array(operand: Operand, env: Mapping[int, Any]) -> Any:
    """The array of an output."""
    if isinstance(operand, Literal):
        return jax.numpy.broadcast_to(jax.numpy.asarray(operand.value), operand.shape)
    return env[operand]
