"""The jitted functions of one pipeline stage: one per kind of task, the last of which accumulates gradients, and the
end of a batch.

In: `PipelineCode` and the stage's mesh. Out: `StageFunctions`. Each is compiled for the stage's own submesh at its
first call.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from planner.core import programs
from planner.core.plan import ParamPlan
from planner.core.spec import Spec
from planner.emit.cutting import TaskCode
from planner.emit.deferred import ends_in_place, final_spec, lead_count, settled_spec
from planner.emit.meshes import sharding
from planner.emit.micro import accumulation_dtype
from planner.emit.names import gradient_name
from planner.emit.pipeline_code import PipelineCode
from planner.emit.tasks import Constraints, run_code
from planner.runtime.stage_program import stage_program
from planner.schedules import Kind

T = TypeVar("T")


@dataclass(frozen=True)
class Scale:
    """How gradient sums become the gradient of the batch: divided by this many microbatches (1 for a summed loss)."""

    divisor: int


class StageFunctions:
    """The functions of one stage: `codes` and `programs` per kind of task.

    `programs[kind](*reads) -> makes`, but the last kind in training: `(sums, *reads) -> (sums, makes)`, which takes
    over the buffers of `sums`. `zeros() -> sums`; `finish(sums) -> gradients`, in the order of `PipelineCode.grads` of
    the stage, which takes over the buffers of those sums that gradients fit into.
    """

    def __init__(self, code: PipelineCode, stage: int, mesh: Mesh, scale: Scale) -> None:
        self._code, self._stage, self._mesh, self._scale = code, stage, mesh, scale
        given = code.given
        self._constraints = Constraints(mesh, given.specs[stage], given.uses)
        self._params = code.grads[stage]
        self._sums = tuple(sharding(mesh, settled_spec(given, p, stage)) for p, _ in self._params)
        self.codes: Mapping[Kind, TaskCode] = {kind: code.tasks[stage, kind] for kind in code.kinds}
        self.summing: Kind | None = code.kinds[-1] if len(code.kinds) > 1 else None
        self.programs: Mapping[Kind, Any] = {kind: self._program(kind) for kind in code.kinds}
        self.zeros = stage_program(self._zeros, mesh, self._name(programs.ZEROS), out_shardings=self._sums)
        self._in_place = [ends_in_place(given, p, v[0], stage) for p, v in self._params]
        ends = tuple(sharding(mesh, final_spec(given, p, stage)) for p, _ in self._params)
        self._finishing = stage_program(self._finish, mesh, self._name(programs.FINISH), donate=(0,),
                                        out_shardings=self._apart(ends))

    def finish(self, sums: Sequence[Any]) -> tuple[Any, ...]:
        """The gradients of the batch."""
        own, new = map(iter, self._finishing(*self._apart(sums)))
        return tuple(next(own if here else new) for here in self._in_place)

    def lowered_finish(self, sums: Sequence[Any]) -> Any:
        """The program of `finish`, lowered."""
        return self._finishing.lower(*self._apart(sums))

    def _apart(self, each: Sequence[T]) -> tuple[tuple[T, ...], tuple[T, ...]]:
        """What belongs to sums whose place gradients take, and the others."""
        return (tuple(x for x, here in zip(each, self._in_place, strict=True) if here),
                tuple(x for x, here in zip(each, self._in_place, strict=True) if not here))

    def _name(self, work: str) -> str:
        return programs.program_name(self._stage, work)

    def _program(self, kind: Kind) -> Any:
        code, name = self.codes[kind], self._name(kind)
        makes = self._placed(code.makes)
        if kind is self.summing:
            return stage_program(partial(self._sum_up, code), self._mesh, name, donate=(0,),
                                 out_shardings=(self._sums, makes))
        return stage_program(partial(self._made, code), self._mesh, name, out_shardings=makes)

    def _placed(self, values: Sequence[int]) -> tuple[Any, ...]:
        """How results lie. Where the plan leaves it open the compiler chooses, but for what is handed on: it leaves as
        it is wanted, or as the receiver thinks it comes."""
        code, stage = self._code, self._stage
        specs, becomes = code.given.specs[stage], {new: old for old, new in code.state_successor.items()}

        def spec(value: int) -> Spec | None:
            if value in specs:
                return specs[value]
            if value in becomes:
                return code.spec(becomes[value], stage)
            return code.spec(value, stage) if any(s != stage for s in code.readers.get(value, ())) else None

        return tuple(None if (found := spec(v)) is None else sharding(self._mesh, found) for v in values)

    def _run(self, task: TaskCode, reads: Sequence[Any]) -> dict[int, Any]:
        env = dict(zip(task.reads, reads, strict=True))
        run_code(self._code.given.graph, task.ops, env, self._constraints)
        return env

    def _made(self, code: TaskCode, *reads: Any) -> tuple[Any, ...]:
        env = self._run(code, reads)
        return tuple(env[v] for v in code.makes)

    def _sum_up(self, code: TaskCode, sums: Sequence[Any], *reads: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        env = self._run(code, reads)
        added = tuple(self._added(p, total, [env[v] for v in values])
                      for total, (p, values) in zip(sums, self._params, strict=True))
        return added, tuple(env[v] for v in code.makes)

    def _added(self, param: ParamPlan, total: Any, parts: Sequence[Any]) -> Any:
        with jax.named_scope(gradient_name(param.path, param.row)):
            return _plus(total, parts)

    def _zeros(self) -> tuple[Any, ...]:
        values = self._code.given.graph.values
        return tuple(jnp.zeros(values[v[0]].shape, accumulation_dtype(p.dtype)) for p, v in self._params)

    def _finish(self, *sums: Sequence[Any]) -> tuple[tuple[Any, ...], ...]:
        return tuple(tuple(self._finished(p, values[0], total) for (p, values), total in zip(params, some, strict=True))
                     for params, some in zip(self._apart(self._params), sums, strict=True))

    def _finished(self, param: ParamPlan, value: int, total: Any) -> Any:
        leads = lead_count(self._code.given, param, value)
        with jax.named_scope(gradient_name(param.path, param.row)):
            total = total.sum(tuple(range(leads))) if leads else total
        return (total / self._scale.divisor if self._scale.divisor > 1 else total).astype(param.dtype)


def _plus(total: Any, parts: Sequence[Any]) -> Any:
    for part in parts:
        total = total + part.astype(total.dtype)
    return total
