"""A micro graph cut into the tasks of a schedule, stage by stage: forward and backward, or the backward in two parts.

Generic by liveness: a value made by one task and read by another is a residual if the stages are equal, an activation
or cotangent if not; it goes straight from its producer to each stage that reads it, however far. Where the schedule
splits the backward, `parted.py` says what the second part is; the last task of a stage adds up gradients,
those that an earlier one made included. In: `Annotated`. Out: `PipelineCode`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from planner.core.graph import Graph, Phase, Role
from planner.core.plan import ParamPlan, PlanRecord
from planner.core.spec import Spec, replicated
from planner.emit.annotated import Annotated
from planner.emit.contributions import contributions
from planner.emit.cutting import TaskCode, cut
from planner.emit.parted import second_part
from planner.errors import PlanMismatchError
from planner.schedules import SCHEDULES, Kind

Name = tuple[int, Kind]
"""(stage, what is done there)."""

Summed = tuple[tuple[ParamPlan, tuple[int, ...]], ...]
"""Parameters, each with values whose sum a microbatch adds to its gradient."""


@dataclass(frozen=True)
class PipelineCode:
    """The tasks of a pipeline.

    Attributes:
      given: graph and annotations.
      kinds: the tasks of every stage, in the order in which a microbatch goes through them.
      tasks: code per stage and kind.
      role: role of every graph input; constants are CONST.
      readers: value -> stages that read it, in order.
      grads: per stage, the parameters whose gradient it contributes to, with the contributing values.
      state_successor: value of a STATE input -> value that holds it for the next microbatch.
      makers: value that a task makes for others -> its stage.
      mesh_shapes: per stage.
    """

    given: Annotated
    kinds: tuple[Kind, ...]
    tasks: Mapping[Name, TaskCode]
    role: Mapping[int, Role]
    readers: Mapping[int, tuple[int, ...]]
    grads: tuple[Summed, ...]
    state_successor: Mapping[int, int]
    makers: Mapping[int, int]
    mesh_shapes: tuple[tuple[int, ...], ...]

    def spec(self, value: int, stage: int) -> Spec:
        """How a value lies on a stage. Where the plan does not say, as where it was made if the meshes are alike, so
        that it is handed over as it lies; else whole."""
        if value in self.given.specs[stage]:
            return self.given.specs[stage][value]
        maker = self.makers.get(value, stage)
        if maker != stage and self.mesh_shapes[maker] == self.mesh_shapes[stage] and value in self.given.specs[maker]:
            return self.given.specs[maker][value]
        return replicated(len(self.given.graph.values[value].shape))

    def reads_on(self, stage: int, role: Role | None) -> tuple[int, ...]:
        """Values of one role (None: results of tasks) that a task of a stage reads."""
        found = {v for kind in self.kinds for v in self.tasks[stage, kind].reads if self.role.get(v) is role}
        return tuple(sorted(found))

    def read_after(self, stage: int, kind: Kind) -> frozenset[int]:
        """Values that the stage's tasks after one of that kind read, of the same microbatch."""
        later = self.kinds[self.kinds.index(kind) + 1:]
        return frozenset(v for k in later for v in self.tasks[stage, k].reads)


def pipeline_code(record: PlanRecord, given: Annotated) -> PipelineCode:
    """Cut an annotated graph by stage and task.

    Raises:
      UnknownNameError: there is no schedule of the plan's name.
      PlanMismatchError: the schedule does not fit the model (no backward).
    """
    graph, schedule = given.graph, SCHEDULES[record.schedule]
    if schedule.trains != (record.kind == "train"):
        raise PlanMismatchError(f"schedule {record.schedule!r} of the plan does not serve {record.kind}", "plan again")
    kinds = schedule.kinds
    names = _names(record, given, kinds)
    stage_of = {(s.index, kind): s.index for s in record.stages for kind in kinds}
    grads = _grads(record, given)
    tasks = _with_sums(cut(graph, names, stage_of), kinds, grads)
    role = {i.value: i.role for i in graph.inputs} | {v: Role.CONST for v, _ in graph.constants}
    readers: dict[int, set[int]] = {}
    for code in tasks.values():
        for v in code.reads:
            readers.setdefault(v, set()).add(code.stage)
    return PipelineCode(given, kinds, tasks, role, {v: tuple(sorted(s)) for v, s in readers.items()}, grads,
                        _successors(graph), {v: code.stage for code in tasks.values() for v in code.makes},
                        tuple(s.mesh_shape for s in record.stages))


def _names(record: PlanRecord, given: Annotated, kinds: Sequence[Kind]) -> list[Name]:
    """The task of every operator."""
    graph, stage_of = given.graph, given.stage_of
    late = second_part(record, given)
    back = kinds[1] if len(kinds) > 1 else Kind.BACKWARD
    return [(stage, Kind.FORWARD if op.phase is Phase.FORWARD else Kind.WEIGHT_GRADIENT if n in late else back)
            for n, (stage, op) in enumerate(zip(stage_of, graph.ops, strict=True))]


def _with_sums(tasks: Mapping[Name, TaskCode], kinds: Sequence[Kind], grads: Sequence[Summed]) -> dict[Name, TaskCode]:
    """The tasks, the last of each stage adding up gradients: it reads those that others made, and hands on none that no
    other task reads."""
    done = dict(tasks)
    for stage, summed in enumerate(grads):
        own = {v for _, values in summed for v in values}
        last = done[stage, kinds[-1]]
        elsewhere = {v for name, code in tasks.items() if name != (stage, kinds[-1]) for v in code.reads}
        made = {v for kind in kinds[:-1] for v in done[stage, kind].makes}
        done[stage, kinds[-1]] = replace(last, reads=tuple(sorted({*last.reads, *(own & made)})),
                                         makes=tuple(v for v in last.makes if v not in own or v in elsewhere))
    return done


def _grads(record: PlanRecord, given: Annotated) -> tuple[Summed, ...]:
    maker = {v: stage for stage, op in zip(given.stage_of, given.graph.ops, strict=True) for v in op.results}
    found: list[list[tuple[ParamPlan, tuple[int, ...]]]] = [[] for _ in record.stages]
    if record.kind == "train":
        for param in record.params:
            values = contributions(given.graph, param)
            for s in sorted({maker[v] for v in values}):
                found[s].append((param, tuple(v for v in values if maker[v] == s)))
    return tuple(tuple(x) for x in found)


def _successors(graph: Graph) -> dict[int, int]:
    made = {(o.path, o.row): o.operand for o in graph.outputs_of(Role.STATE)}
    return {i.value: value for i in graph.inputs_of(Role.STATE)
            if isinstance(value := made[i.path, i.row], int)}
