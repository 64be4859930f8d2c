"""Which operators run together, what they read and what others read of them: liveness over a partition of a graph.

Used twice: for the forward and backward of pipeline stages, and for the rounds of a weight update that spans stages.
In: a graph, and a task per operator. Out: `TaskCode`s and JAX functions that run them.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh

from planner.core.graph import Graph, Literal, Op, Operand
from planner.core.spec import Spec
from planner.emit.meshes import sharding
from planner.emit.names import operator_name
from planner.emit.payloads import Local
from planner.interpret import OperandHook, ResultHook, run_ops

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class TaskCode:
    """One function's worth of a graph.

    Attributes:
      stage: the stage it runs on.
      ops: operators, in order.
      reads: values it needs from outside (inputs, constants, results of other tasks).
      makes: results that another task or a graph output reads.
      part: of the weight update, where optimizer state comes from the host part by part (`LeafPlace.part`).
    """

    stage: int
    ops: tuple[int, ...]
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    part: int = 0


def cut(graph: Graph, task_of: Sequence[Name], stage_of: Mapping[Name, int]) -> dict[Name, TaskCode]:
    """Cut a graph into tasks.

    Args:
      graph: the graph.
      task_of: per operator, the name of its task.
      stage_of: task name -> stage; tasks without operators are included, empty.
    """
    ops: dict[Name, list[int]] = {name: [] for name in stage_of}
    maker: dict[int, Name] = {}
    for n, op in enumerate(graph.ops):
        ops[task_of[n]].append(n)
        maker.update(dict.fromkeys(op.results, task_of[n]))
    wanted = {o.operand for o in graph.outputs if isinstance(o.operand, int)}
    reads: dict[Name, set[int]] = {name: set() for name in stage_of}
    for n, op in enumerate(graph.ops):
        for v in op.inputs:
            if maker.get(v) != task_of[n]:
                reads[task_of[n]].add(v)
                wanted.add(v)
    return {name: TaskCode(stage_of[name], tuple(ops[name]), tuple(sorted(reads[name])),
                           tuple(v for n in ops[name] for v in graph.ops[n].results
                                 if v in wanted)) for name in stage_of}


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
