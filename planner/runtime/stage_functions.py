"""The jitted functions of one pipeline stage: forward, backward with gradient accumulation, and the end of a batch.

In: `PipelineCode` and the stage's mesh. Out: `StageFunctions`. Each is compiled for the stage's own submesh at its
first call.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from planner.core import programs
from planner.core.graph import Phase
from planner.core.plan import ParamPlan
from planner.emit.deferred import final_spec, lead_count, settled_spec
from planner.emit.meshes import sharding
from planner.emit.micro import accumulation_dtype
from planner.emit.names import gradient_name
from planner.emit.pipeline_code import PipelineCode
from planner.emit.tasks import Constraints, TaskCode, run_code
from planner.runtime.stage_program import stage_program


@dataclass(frozen=True)
class Scale:
    """How gradient sums become the gradient of the batch: divided by this many microbatches (1 for a summed loss)."""

    divisor: int


class StageFunctions:
    """The functions of one stage.

    `forward(*reads) -> makes`; `backward(sums, *reads) -> (sums, makes)`, which takes over the buffers of `sums`;
    `zeros() -> sums`; `finish(sums) -> gradients`, in the order of `PipelineCode.grads` of the stage.
    """

    def __init__(self, code: PipelineCode, stage: int, mesh: Mesh, scale: Scale) -> None:
        self._code, self._stage, self._mesh, self._scale = code, stage, mesh, scale
        given = code.given
        self._constraints = Constraints(mesh, given.specs[stage], given.uses)
        self._params = code.grads[stage]
        self._sums = tuple(sharding(mesh, settled_spec(given, p, stage)) for p, _ in self._params)
        ahead, back = code.tasks[stage, Phase.FORWARD], code.tasks[stage, Phase.BACKWARD]
        returned = {v for _, values in self._params for v in values}
        self.forward_code = ahead
        self.backward_code = TaskCode(stage, back.ops, back.reads, tuple(v for v in back.makes if v not in returned))
        self.forward = stage_program(self._forward, mesh, self._name(programs.FORWARD),
                                     out_shardings=self._placed(ahead.makes))
        self.backward = stage_program(self._backward, mesh, self._name(programs.BACKWARD), donate=(0,),
                                      out_shardings=(self._sums, self._placed(self.backward_code.makes)))
        self.zeros = stage_program(self._zeros, mesh, self._name(programs.ZEROS), out_shardings=self._sums)
        self.finish = stage_program(self._finish, mesh, self._name(programs.FINISH), out_shardings=tuple(
            sharding(mesh, final_spec(given, p, stage)) for p, _ in self._params))

    def _name(self, work: str) -> str:
        return programs.program_name(self._stage, work)

    def _placed(self, values: Sequence[int]) -> tuple[Any, ...]:
        specs = self._code.given.specs[self._stage]
        return tuple(sharding(self._mesh, specs[v]) if v in specs else None for v in values)

    def _run(self, task: TaskCode, reads: Sequence[Any]) -> dict[int, Any]:
        env = dict(zip(task.reads, reads, strict=True))
        run_code(self._code.given.graph, task.ops, env, self._constraints)
        return env

    def _forward(self, *reads: Any) -> tuple[Any, ...]:
        env = self._run(self.forward_code, reads)
        return tuple(env[v] for v in self.forward_code.makes)

    def _backward(self, sums: Sequence[Any], *reads: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        env = self._run(self.backward_code, reads)
        added = tuple(self._added(p, total, [env[v] for v in values])
                      for total, (p, values) in zip(sums, self._params, strict=True))
        return added, tuple(env[v] for v in self.backward_code.makes)

    def _added(self, param: ParamPlan, total: Any, parts: Sequence[Any]) -> Any:
        with jax.named_scope(gradient_name(param.path, param.row)):
            return _plus(total, parts)

    def _zeros(self) -> tuple[Any, ...]:
        values = self._code.given.graph.values
        return tuple(jnp.zeros(values[v[0]].shape, accumulation_dtype(p.dtype)) for p, v in self._params)

    def _finish(self, sums: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(self._finished(p, values[0], total) for (p, values), total in zip(self._params, sums, strict=True))

    def _finished(self, param: ParamPlan, value: int, total: Any) -> Any:
        leads = lead_count(self._code.given, param, value)
        with jax.named_scope(gradient_name(param.path, param.row)):
            total = total.sum(tuple(range(leads))) if leads else total
        return (total / self._scale.divisor if self._scale.divisor > 1 else total).astype(param.dtype)


def _plus(total: Any, parts: Sequence[Any]) -> Any:
    for part in parts:
        total = total + part.astype(total.dtype)
    return total
