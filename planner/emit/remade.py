"""What the backward of a pipeline's stage makes again instead of keeping it: cheap values of parameters and constants.

Forward and backward of a stage are programs of their own, so that what one makes and the other reads is kept for every
microbatch in flight: the 16-bit cast of a weight or the mask of an attention as many times over as there are
microbatches, though nothing in them is a microbatch's own. In: `Annotated`. Out: `Annotated`.
"""

from planner.core.graph import Graph, Phase
from planner.core.plan import PlanRecord
from planner.emit.annotated import Annotated
from planner.emit.edit import Edit
from planner.trace.local_copies import cheap_of_parameters


def with_remade(record: PlanRecord, given: Annotated) -> Annotated:
    """The same computation; in a pipeline, the backward of a stage repeats the cheap operators that it needs from the
    forward, on parameters and constants alone."""
    if len(record.stages) == 1 or record.kind != "train":
        return given
    graph, stage_of = given.graph, given.stage_of
    free = _free(graph, stage_of)
    again = [_needed(graph, stage_of, free, s.index) for s in record.stages]
    edit = Edit(given)
    names: list[dict[int, int]] = [{} for _ in record.stages]
    for n, op in enumerate(graph.ops):
        stage = stage_of[n]
        if op.phase is Phase.BACKWARD and again[stage]:
            for repeated in again[stage]:
                names[stage] |= edit.repeat(repeated, names[stage], stage)
            again[stage] = []
        edit.keep(n, names[stage] if op.phase is Phase.BACKWARD else {})
    return edit.finish()


def _free(graph: Graph, stage_of: tuple[int, ...]) -> dict[int, int]:
    """Cheap values of parameters and constants that a stage makes without another's -> their operators."""
    made = cheap_of_parameters(graph)
    found: dict[int, int] = {}
    for value, n in made.items():
        if all(v in found and stage_of[found[v]] == stage_of[n] for v in graph.ops[n].inputs if v in made):
            found[value] = n
    return found


def _needed(graph: Graph, stage_of: tuple[int, ...], free: dict[int, int], stage: int) -> list[int]:
    """The operators behind the free values of a stage that its backward reads, in order."""
    wanted = {v for n, op in enumerate(graph.ops) if stage_of[n] == stage and op.phase is Phase.BACKWARD
              for v in op.inputs if v in free and stage_of[free[v]] == stage}
    found: set[int] = set()
    while wanted:
        n = free[wanted.pop()]
        if n not in found:
            found.add(n)
            wanted |= {v for v in graph.ops[n].inputs if v in free}
    return sorted(found)
