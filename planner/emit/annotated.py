"""The micro graph with everything the plan says of it: the stage of every operator, and shardings per stage.

What the emitter rewrites (`recompute.py`, `deferred.py`) and what the runtime cuts into tasks (`tasks.py`). In: a
`PlanRecord` and the `Program` it was made for. Out: `Annotated`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from planner.core.graph import Graph, Literal, Op, Output, Phase, Program, Role, Value
from planner.core.plan import PlanRecord
from planner.core.spec import Spec
from planner.emit.payloads import Copy


@dataclass(frozen=True)
class Annotated:
    """A graph under a plan.

    Attributes:
      graph: as `Program.micro`, but every output is the result of an operator.
      stage_of: stage per operator.
      specs: per stage, value -> sharding.
      uses: (operator index, operand position) -> sharding needed just there.
      sums: (stage, parameter value) -> sharding of its gradient sum, for gradients with leading dimensions (deferred).
    """

    graph: Graph
    stage_of: tuple[int, ...]
    specs: tuple[Mapping[int, Spec], ...]
    uses: Mapping[tuple[int, int], Spec]
    sums: Mapping[tuple[int, int], Spec] = field(default_factory=dict)


def annotate_program(record: PlanRecord, program: Program) -> Annotated:
    """The program's micro graph under a plan, before any rewrite."""
    graph, extra = _with_produced_outputs(program.micro)
    homes = {(p.path, p.row): p.home for p in record.params}
    stage_of = [_stage_of(record, op.origin) for op in program.micro.ops]
    stage_of += [homes[out.path, out.row] if out.role is Role.GRAD else len(record.stages) - 1 for out in extra]
    specs = tuple(MappingProxyType(dict(stage.specs)) for stage in record.stages)
    uses = {(n, position): spec for stage in record.stages for n, position, spec in stage.uses}
    return Annotated(graph, tuple(stage_of), specs, MappingProxyType(uses))


def _stage_of(record: PlanRecord, origin: int) -> int:
    for stage in record.stages:
        if origin < stage.ops[1]:
            return stage.index
    return len(record.stages) - 1


def _with_produced_outputs(graph: Graph) -> tuple[Graph, tuple[Output, ...]]:
    """The graph with a copy made for every output that no operator makes; those outputs."""
    made = {v for op in graph.ops for v in op.results}
    values, ops, outputs, extra = list(graph.values), list(graph.ops), [], []
    for out in graph.outputs:
        if isinstance(out.operand, int) and out.operand in made:
            outputs.append(out)
            continue
        given = out.operand
        typed = Value(given.shape, given.dtype) if isinstance(given, Literal) else graph.values[given]
        values.append(typed)
        phase = Phase.BACKWARD if out.role is Role.GRAD else Phase.FORWARD
        ops.append(Op("copy", (given,), (len(values) - 1,), MappingProxyType({}), (), "", phase, -1, Copy(typed.shape)))
        outputs.append(replace(out, operand=len(values) - 1))
        extra.append(out)
    return replace(graph, values=tuple(values), ops=tuple(ops), outputs=tuple(outputs)), tuple(extra)
