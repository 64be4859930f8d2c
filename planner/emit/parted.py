"""The second part of a backward that a schedule runs in two, and tensors that both parts need in the same sharding.

Within one program the compiler reshards a tensor once for all that read it so, as the plan counts on. Two programs
would do it twice: so the first part hands on what it resharded (as zero-bubble implementations keep the gathered tensor
for the weight gradient), and the second part waits with just what it reads.

In: `Annotated`. Out: `Annotated`, with a copy for each such tensor and sharding.
"""

from collections.abc import Mapping

from planner.core.backward_split import weight_part
from planner.core.graph import Phase
from planner.core.plan import PlanRecord
from planner.emit.annotated import Annotated
from planner.emit.edit import Edit, Fetch
from planner.schedules import SCHEDULES, Kind


def second_part(record: PlanRecord, given: Annotated) -> frozenset[int]:
    """The operators of the weight gradient; none if the schedule does not part the backward.

    Raises:
      UnknownNameError: there is no schedule of the plan's name.
    """
    graph, stage_of = given.graph, given.stage_of
    if Kind.WEIGHT_GRADIENT not in SCHEDULES[record.schedule].kinds:
        return frozenset()
    maker = {v: stage for stage, op in zip(stage_of, graph.ops, strict=True) for v in op.results}
    crossing = {v for stage, op in zip(stage_of, graph.ops, strict=True) for v in op.inputs
                if maker.get(v, stage) != stage}
    return weight_part(graph, [layer.ops for layer in record.layers], crossing)


def with_shared_fetches(record: PlanRecord, given: Annotated) -> Annotated:
    """The same computation, with what both parts reshard alike resharded by the first."""
    late = second_part(record, given)
    shared = _shared(given, late) if late else {}
    if not shared:
        return given
    edit, names = Edit(given), dict[Fetch, int]()
    for n in range(len(given.graph.ops)):
        edit.keep_resharded(n, {at: key for at, key in _fetches(given, n).items() if key in shared}, names)
    return edit.finish()


def _fetches(given: Annotated, n: int) -> Mapping[int, Fetch]:
    """Position -> what an operator of the backward has resharded there: one of the forward has its own, as a copy would
    wait from then on."""
    op, stage = given.graph.ops[n], given.stage_of[n]
    found: dict[int, Fetch] = {}
    if op.phase is not Phase.BACKWARD:
        return found
    for at, value in enumerate(op.operands):
        spec = given.uses.get((n, at))
        if isinstance(value, int) and spec is not None and given.specs[stage].get(value) != spec:
            found[at] = stage, value, spec
    return found


def _shared(given: Annotated, late: frozenset[int]) -> set[Fetch]:
    """What operators of both parts fetch."""
    first, second = set[Fetch](), set[Fetch]()
    for n in range(len(given.graph.ops)):
        (second if n in late else first).update(_fetches(given, n).values())
    return first & second
