"""What keeping this and that in the memory of the devices' hosts adds to the times of a plan (`costs/host.py`).

In: a `PlanRecord` whose memory is that of its programs. Out: the same, with the times.
"""

from dataclasses import replace
from math import prod

from planner.core.host import HostLink
from planner.core.plan import HOST, ParamPlan, PlanRecord, StagePlan
from planner.core.spec import shard_count
from planner.costs.host import activations_s, update_s
from planner.costs.memory import itemsize


def priced(record: PlanRecord) -> PlanRecord:
    """The plan with what moving to and from the host adds to its times."""
    stages = tuple(_priced(record, s) for s in record.stages)
    rounds = record.microbatches + len(stages) - 1  # the slowest stage's, and the others' once
    slowest = max(s.time.host_s for s in stages)
    ends = max(s.time.batch_s for s in stages) - max(s.time.batch_s for s in record.stages)
    return replace(record, stages=stages, step_time_s=record.step_time_s + rounds * slowest + ends)


def _priced(record: PlanRecord, stage: StagePlan) -> StagePlan:
    host, kind = host_of(record, stage), record.cluster.kind_of(stage.devices[0])
    if host is None:
        return stage
    host = host.while_busy(kind.devices_per_node)
    return replace(stage, time=replace(stage.time, host_s=_waits_s(stage, host),
                                       host_batch_s=_visits_s(record, stage, host)))


def _waits_s(stage: StagePlan, host: HostLink) -> float:
    """Seconds per microbatch by which activations on the host make a stage wait."""
    if not stage.offload:
        return 0.0
    each = stage.memory.host_bytes / max(1, stage.in_flight - 1)  # with a part of optimizer state, so no less
    forward = sum(t.forward_s + t.forward_wait_s + t.forward_gather_s for t in stage.layer_times) \
        or stage.time.microbatch_s / 3
    return activations_s(each, forward, max(0.0, stage.time.microbatch_s - forward), host)


def _visits_s(record: PlanRecord, stage: StagePlan, host: HostLink) -> float:
    """Seconds in which optimizer state visits the devices."""
    moved = [weight(record, p) for p in record.params if p.home == stage.index and p.opt_memory == HOST]
    total = weights(record, stage.index)
    if not moved or not total:
        return 0.0
    away = stage.memory.host_bytes if not stage.offload else \
        (stage.memory.opt_state_bytes + stage.memory.host_bytes) * sum(moved) / total
    part = max(moved) / sum(moved)
    return update_s(float(away), part * away, host)


def weights(record: PlanRecord, stage: int) -> float:
    """Bytes of a stage's parameters on a device, sharded as their optimizer state is, which is in proportion."""
    return sum(weight(record, p) for p in record.params if p.home == stage)


def weight(record: PlanRecord, param: ParamPlan) -> float:
    """Bytes of a parameter on a device, sharded as its update is."""
    mesh = record.stages[param.home].mesh_shape
    return prod(param.shape) * itemsize(param.dtype) / shard_count(param.update_spec, mesh)


def host_of(record: PlanRecord, stage: StagePlan) -> HostLink | None:
    """The way to the host's memory that a stage's devices have."""
    return record.cluster.kind_of(stage.devices[0]).host
