"""What the seconds of a step go into, by cause: arithmetic, communication by what it is for, waiting by why.

Parts are seconds of a step on the mean device, so that they add up to the step. A stage's times by kind (`TimeParts`)
are the measure; its list of communications says how they divide. What runs beside compute is taken off what can hide:
gradient sync and parameter gathers first. Waiting is what is left: until the busiest devices' work is done, devices
with less of it wait for slower stages; what the step takes beyond that work is the schedule's bubble.

In: a `PlanRecord`. Out: seconds by cause, for the whole and by stage; which links communication crosses.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce

from planner.core.plan import GATHER_OF, GRADIENT_OF, HALO_OF, Collective, PlanRecord, StagePlan
from planner.core.replicas import inside
from planner.costs.collectives import ALL_REDUCE, ALL_TO_ALL, REDUCE_SCATTER
from planner.report.breakdown import stage_busy_s
from planner.schedules import SCHEDULES
from planner.simulate import stage_works


class Cause(StrEnum):
    """What a part of a step is for."""

    COMPUTE = "compute"
    TENSOR = "tensor parallel reductions"
    ALL_TO_ALL = "all-to-all"
    RESHARD = "resharding between operators"
    HALO = "halo exchange"
    GATHER = "parameter gathers"
    SYNC = "gradient sync"
    HAND_OVER = "hand-over between stages"
    DISPATCH = "starting programs"
    OPTIMIZER = "optimizer"
    HOST = "host copies"
    UNEVEN = "waiting for slower stages"
    BUBBLE = "pipeline bubble"


CAUSES = tuple(Cause)
WAITING = (Cause.UNEVEN, Cause.BUBBLE)
"""Causes that are no work."""

COMMUNICATION = (Cause.TENSOR, Cause.ALL_TO_ALL, Cause.RESHARD, Cause.HALO, Cause.GATHER, Cause.SYNC,
                 Cause.HAND_OVER)
"""Causes that are communication between devices."""

HIDES_FIRST = (Cause.SYNC, Cause.GATHER)
"""What runs beside compute before anything else does (`costs/overlap.py`)."""

Seconds = dict[Cause, float]


def cause_of(move: Collective) -> Cause:
    """What a communication is for. All-to-alls are those of experts, and of tensors that change the dimension that is
    sharded."""
    if move.where.startswith(GATHER_OF):
        return Cause.GATHER
    if move.where.startswith(GRADIENT_OF):
        return Cause.SYNC
    if move.where.startswith(HALO_OF):
        return Cause.HALO
    return {ALL_REDUCE: Cause.TENSOR, REDUCE_SCATTER: Cause.TENSOR, ALL_TO_ALL: Cause.ALL_TO_ALL}.get(
        move.kind, Cause.RESHARD)


def stage_causes(record: PlanRecord, stage: StagePlan) -> Seconds:
    """Seconds of a step that each device of a stage is busy with each cause; their sum is that of
    `breakdown.stage_busy_s`."""
    record, stage = inside(record, stage)
    t, often = stage.time, [c for c in stage.collectives if c.per == "microbatch"]
    reducing = [c for c in often if c.kind in (ALL_REDUCE, REDUCE_SCATTER)]
    moving = [c for c in often if c.kind not in (ALL_REDUCE, REDUCE_SCATTER)]
    each = _added(_divided(t.collective_s, reducing, Cause.TENSOR), _divided(t.reshard_s, moving, Cause.RESHARD))
    each = _hidden(each, t.hidden_s)
    each[Cause.COMPUTE] = t.compute_s
    work = stage_works(record)[stage.index]
    ways = 2 if SCHEDULES[record.schedule].trains else 1
    each[Cause.HAND_OVER] = min(stage.send_s, ways * (work.receive_s + work.link_s))
    each[Cause.DISPATCH] = max(0.0, stage.send_s - each[Cause.HAND_OVER])
    each[Cause.HOST] = t.host_s
    found = {cause: record.microbatches * value for cause, value in each.items()}
    gathers = min(t.update_s, sum(c.time_s for c in stage.collectives if c.per == "batch" and c.phase == "update"
                                  and c.where.startswith(GATHER_OF)))
    once = {Cause.SYNC: max(0.0, t.grad_sync_s - t.hidden_batch_s), Cause.GATHER: gathers,
            Cause.OPTIMIZER: t.update_s - gathers, Cause.HOST: t.host_batch_s}
    return _ordered(_added(found, once))


def step_causes(record: PlanRecord) -> Seconds:
    """Seconds of the step by cause, as the mean over devices: they add up to `step_time_s`.

    Where devices share cores, those that wait lend theirs, and a step takes less than the work of its busiest devices
    as it was priced; work is shown as much shorter then.
    """
    found = dict.fromkeys(CAUSES, 0.0)
    if record.replicas:
        return _of_replicas(record, found)
    for rank in range(record.layout.ranks):
        part = len(record.stages[record.layout.stages_of(rank)[0]].devices) / record.device_count
        for cause, value in rank_causes(record, rank).items():
            found[cause] += part * value
    return found


def _of_replicas(record: PlanRecord, found: Seconds) -> Seconds:
    """Of each replica by itself, waiting for the slowest of them, and adding up their gradients."""
    for replica in record.replicas:
        part = replica.device_count / record.device_count
        for cause, value in step_causes(replica).items():
            found[cause] += part * value
        found[Cause.SYNC] += part * record.sync_s
        found[Cause.UNEVEN] += part * (record.step_time_s - record.sync_s - replica.step_time_s)
    return found


def rank_causes(record: PlanRecord, rank: int) -> Seconds:
    """The same of each device of one rank: what its stages do, and what it waits for."""
    layout, step = record.layout, record.step_time_s
    busy = [sum(sum(stage_busy_s(record.stages[s], record.microbatches)) for s in layout.stages_of(r))
            for r in range(layout.ranks)]
    most = max(busy)
    quicker = min(1.0, step / most) if most else 1.0
    found = _added(*(stage_causes(record, record.stages[s]) for s in layout.stages_of(rank)))
    found = {cause: quicker * value for cause, value in found.items()}
    return found | {Cause.UNEVEN: quicker * (most - busy[rank]), Cause.BUBBLE: step - quicker * most}


def top_moves(record: PlanRecord, stage: StagePlan) -> tuple[tuple[Collective, float], ...]:
    """A stage's communications and the seconds of a step in each, as if nothing ran beside them, dearest first."""
    times = [(c, c.time_s * (record.microbatches_of(stage) if c.per == "microbatch" else 1)) for c in stage.collectives]
    return tuple(sorted(times, key=lambda ct: (-ct[1], ct[0].where, ct[0].kind)))


@dataclass(frozen=True)
class Crossing:
    """Seconds of a step on the mean device in communication inside nodes and between nodes."""

    inside_s: float
    between_s: float


def crossing(record: PlanRecord) -> Crossing:
    """Which links the step's communication is on: that of groups of devices in several nodes is between nodes."""
    inside = between = 0.0
    for stage in record.stages:
        part = len(stage.devices) / record.device_count
        away_over = {axes: crosses_nodes(record, stage, axes) for axes in {c.axes for c in stage.collectives}}
        listed = [(t, away_over[c.axes]) for c, t in top_moves(record, stage)]
        whole = sum(t for t, _ in listed)
        causes = stage_causes(record, stage)
        exposed = sum(causes[c] for c in COMMUNICATION if c is not Cause.HAND_OVER)
        away = exposed * sum(t for t, far in listed if far) / whole if whole else 0.0
        sent = causes[Cause.HAND_OVER]
        far = sent if stage.index and not _share_node(record, record.stages[stage.index - 1], stage) else 0.0
        between += part * (away + far)
        inside += part * (exposed - away + sent - far)
    used = len({d for s in record.stages for d in s.devices})
    return Crossing(inside, between + used / record.device_count * record.sync_s)


def crosses_nodes(record: PlanRecord, stage: StagePlan, axes: Iterable[int]) -> bool:
    """Whether groups of devices along these axes of a stage's mesh lie in several nodes."""
    axes, shape = set(axes), stage.mesh_shape
    strides = [reduce(lambda a, b: a * b, shape[a + 1:], 1) for a in range(len(shape))]
    groups: dict[int, set[int]] = {}
    for n, device in enumerate(stage.devices):
        key = sum(((n // strides[a]) % shape[a]) * strides[a] for a in range(len(shape)) if a not in axes)
        groups.setdefault(key, set()).add(record.cluster.node_of(device))
    return any(len(nodes) > 1 for nodes in groups.values())


def _share_node(record: PlanRecord, a: StagePlan, b: StagePlan) -> bool:
    node_of = record.cluster.node_of
    return bool({node_of(d) for d in a.devices} & {node_of(d) for d in b.devices})


def _divided(whole_s: float, moves: Iterable[Collective], otherwise: Cause) -> Seconds:
    """A time by the causes of the communications that it is of, as they divide it; of one cause if there are none."""
    parts: Seconds = {}
    for move in moves:
        parts[cause_of(move)] = parts.get(cause_of(move), 0.0) + move.time_s
    listed = sum(parts.values())
    return {cause: whole_s * part / listed for cause, part in parts.items()} if listed else {otherwise: whole_s}


def _hidden(parts: Seconds, hidden_s: float) -> Seconds:
    """What is left of communication when so much of it runs beside compute."""
    found = dict(parts)
    for some in (HIDES_FIRST, COMMUNICATION):
        whole = sum(found.get(c, 0.0) for c in some)
        taken = min(hidden_s, whole)
        hidden_s -= taken
        for cause in some:
            if whole and cause in found:
                found[cause] *= 1 - taken / whole
    return found


def _added(*each: Seconds) -> Seconds:
    keys: Iterator[Cause] = (c for parts in each for c in parts)
    return {c: sum(parts.get(c, 0.0) for parts in each) for c in dict.fromkeys(keys)}


def _ordered(parts: Seconds) -> Seconds:
    return {cause: parts.get(cause, 0.0) for cause in CAUSES if cause not in WAITING}
