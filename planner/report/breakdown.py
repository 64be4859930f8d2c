"""What a plan's predicted step is made of, as numbers that tables, explanations and pictures share.

In: a `PlanRecord`. Out: device time by kind, the bottleneck stage, rates. All times are predictions of the plan itself;
nothing is priced again here. Device time is what the devices of the cluster spend in one step, so its parts add up to
`device_count * step_time_s`; what no part claims is idle: pipeline bubbles and uneven stages.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from planner.core.hardware import Cluster
from planner.core.plan import PlanRecord, StagePlan

TIME_KINDS: tuple[str, ...] = ("compute", "collectives", "resharding", "sending", "gradient sync", "update", "idle")
"""Kinds of device time, in the order they are shown."""

MEMORY_KINDS = ("parameters", "optimizer", "gradients", "activations", "working set")
"""Kinds of memory, in the order they are shown and stacked."""


@dataclass(frozen=True)
class Peak:
    """A device's datasheet rate in the dtype that a plan computes in."""

    dtype: str
    flops_per_s: float


def stage_busy_s(stage: StagePlan, microbatches: int) -> tuple[float, ...]:
    """Seconds that each device of a stage spends per step on each of `TIME_KINDS` but idle; communication that runs
    beside compute takes none."""
    t = stage.time
    reshard = max(0.0, t.reshard_s - t.hidden_s)
    collective = max(0.0, t.collective_s - max(0.0, t.hidden_s - t.reshard_s))
    each = (t.compute_s, collective, reshard, stage.send_s + t.host_s)
    return (*(microbatches * part for part in each), max(0.0, t.grad_sync_s - t.hidden_batch_s),
            t.update_s + t.host_batch_s)


def device_seconds(record: PlanRecord) -> dict[str, float]:
    """Device time of one step by kind, in device-seconds, summed over all devices; `"idle"` is what remains (>= 0)."""
    parts = dict.fromkeys(TIME_KINDS, 0.0)
    for stage in record.stages:
        for kind, busy in zip(TIME_KINDS, stage_busy_s(stage, record.microbatches_of(stage)), strict=False):
            parts[kind] += len(stage.devices) * busy
    used = {d for s in record.stages for d in s.devices}
    parts["gradient sync"] += len(used) * record.sync_s
    parts["idle"] = max(0.0, record.device_count * record.step_time_s - sum(parts.values()))
    return parts


def device_shares(record: PlanRecord) -> dict[str, float]:
    """`device_seconds` as fractions of their sum."""
    parts = device_seconds(record)
    whole = sum(parts.values()) or 1.0
    return {kind: value / whole for kind, value in parts.items()}


def stage_microbatch_s(stage: StagePlan) -> float:
    """Forward and backward of one microbatch, sending included, in seconds."""
    return stage.time.microbatch_s + stage.send_s


def bottleneck(record: PlanRecord) -> StagePlan:
    """The stage whose devices are busy longest in a step (the first of equals)."""
    return max(record.stages, key=lambda s: (sum(stage_busy_s(s, record.microbatches_of(s))), -s.index))


def memory_parts(stage: StagePlan) -> tuple[int, ...]:
    """Bytes of one device of a stage by `MEMORY_KINDS`."""
    m = stage.memory
    return (m.params_bytes, m.opt_state_bytes, m.grads_bytes, m.activations_bytes, m.transient_bytes)


def memory_of(stages: Iterable[StagePlan]) -> tuple[int, ...]:
    """The same of several stages that share their devices."""
    return tuple(map(sum, zip(*map(memory_parts, stages), strict=True)))


def peak(record: PlanRecord) -> Peak:
    """The rate that model FLOPs utilisation is stated against: of different devices the mean."""
    tables = [(kind.device_count, dict(kind.device.peak_flops_per_s)) for kind in record.cluster.kinds]
    rates = [count * table.get(record.compute_dtype, table["default"]) for count, table in tables]
    return Peak(record.compute_dtype, sum(rates) / record.cluster.device_count)


def kind_of_rank(record: PlanRecord, rank: int) -> Cluster:
    """The devices of a rank, as the equal devices that they are some of."""
    return record.cluster.kind_of(record.stages[record.layout.rank_of.index(rank)].devices[0])


def fullest_rank(record: PlanRecord) -> int:
    """The rank with the least room left, as a part of its memory (the first of equals)."""
    full = [peak / kind_of_rank(record, rank).device.memory_bytes for rank, peak in enumerate(record.rank_bytes)]
    return full.index(max(full))


def flops_per_device_s(record: PlanRecord) -> float:
    """Model FLOPs per second and device (recomputation not counted), in FLOP/s."""
    whole = record.device_count * record.step_time_s
    return record.model_flops / whole if whole else 0.0


def mfu(record: PlanRecord) -> float:
    """Model FLOPs utilisation: the share of the devices' peak that goes into model FLOPs."""
    return flops_per_device_s(record) / peak(record).flops_per_s


def collectives_by_cause(record: PlanRecord) -> tuple[tuple[str, str, str, int, float], ...]:
    """(kind, axes, where, how many a step, seconds a step on one device), the dearest first.

    Collectives of one kind over the same axes at the same place in the source are added up over the stages.
    """
    found: dict[tuple[str, str, str], tuple[int, float]] = {}
    for stage in record.stages:
        for c in stage.collectives:
            times = record.microbatches_of(stage) if c.per == "microbatch" else 1
            tensors = times * c.count
            key = (c.kind, ", ".join(stage.mesh_axes[a] for a in c.axes), c.where)
            count, spent = found.get(key, (0, 0.0))
            found[key] = (count + tensors, spent + times * c.time_s)
    rows = [(*key, count, spent) for key, (count, spent) in found.items()]
    return tuple(sorted(rows, key=lambda row: (-row[4], row[:3])))
