"""A micro graph cut into a forward and a backward task per stage, and what travels between them.

Generic by liveness: a value made by one task and read by another is a residual if the stages are equal, an activation
or cotangent if not; it goes straight from its producer to each stage that reads it, however far. In: `Annotated`. Out:
`PipelineCode`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from planner.core.graph import Graph, Phase, Role
from planner.core.plan import ParamPlan, PlanRecord
from planner.core.spec import Spec, replicated
from planner.emit.annotated import Annotated
from planner.emit.micro import contributions
from planner.emit.tasks import TaskCode, cut

Name = tuple[int, Phase]
"""(stage, forward or backward)."""


@dataclass(frozen=True)
class PipelineCode:
    """The tasks of a pipeline.

    Attributes:
      given: graph and annotations.
      tasks: code per stage and phase.
      role: role of every graph input; constants are CONST.
      readers: value -> stages that read it, in order.
      grads: per stage, the parameters whose gradient it contributes to, with the contributing values.
      state_successor: value of a STATE input -> value that holds it for the next microbatch.
    """

    given: Annotated
    tasks: Mapping[Name, TaskCode]
    role: Mapping[int, Role]
    readers: Mapping[int, tuple[int, ...]]
    grads: tuple[tuple[tuple[ParamPlan, tuple[int, ...]], ...], ...]
    state_successor: Mapping[int, int]

    def spec(self, value: int, stage: int) -> Spec:
        """How a value lies on a stage; whole where the plan does not say."""
        return self.given.specs[stage].get(value, replicated(len(self.given.graph.values[value].shape)))

    def reads_on(self, stage: int, role: Role | None) -> tuple[int, ...]:
        """Values of one role (None: results of tasks) that either task of a stage reads."""
        found = {v for phase in (Phase.FORWARD, Phase.BACKWARD) for v in self.tasks[stage, phase].reads
                 if self.role.get(v) is role}
        return tuple(sorted(found))


def pipeline_code(record: PlanRecord, given: Annotated) -> PipelineCode:
    """Cut an annotated graph by stage and phase."""
    graph = given.graph
    names: list[Name] = [(stage, op.phase) for stage, op in zip(given.stage_of, graph.ops, strict=True)]
    stage_of = {(s.index, phase): s.index for s in record.stages for phase in (Phase.FORWARD, Phase.BACKWARD)}
    tasks = cut(graph, names, stage_of)
    role = {i.value: i.role for i in graph.inputs} | {v: Role.CONST for v, _ in graph.constants}
    readers: dict[int, set[int]] = {}
    for code in tasks.values():
        for v in code.reads:
            readers.setdefault(v, set()).add(code.stage)
    return PipelineCode(given, {(s, p): tasks[s, p] for s, p in stage_of}, role,
                        {v: tuple(sorted(s)) for v, s in readers.items()}, _grads(record, given), _successors(graph))


def _grads(record: PlanRecord, given: Annotated) -> tuple[tuple[tuple[ParamPlan, tuple[int, ...]], ...], ...]:
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
