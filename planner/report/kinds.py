"""What each kind of device of a mixed cluster got, and why: stages and layers, its share of the speed and of the work.

In: a `PlanRecord`. Out: a `Got` per part of its cluster, and the same in words.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from planner.core.hardware import Cluster
from planner.core.plan import PlanRecord
from planner.report import breakdown, units


@dataclass(frozen=True)
class Got:
    """One part of a cluster.

    Attributes:
      name: its devices in words.
      stages, layers: that it has.
      speed: its share of what all devices compute at most, in the dtype that most is computed in.
      work: its share of the arithmetic.
      peak_bytes, memory_bytes: of its fullest device, and what one has.
      busy: share of a step in which its devices that have stages work; 0 for idle ones.
    """

    name: str
    stages: tuple[int, ...]
    layers: tuple[int, ...]
    speed: float
    work: float
    peak_bytes: int
    memory_bytes: int
    busy: float


def by_kind(record: PlanRecord) -> tuple[Got, ...]:
    """See the module."""
    on, dtype = record.cluster, record.compute_dtype
    speeds = [kind.device_count * kind.device.flops_per_s(dtype) for kind in on.kinds]
    return tuple(_got(record, n, kind, speeds[n] / sum(speeds)) for n, kind in enumerate(on.kinds))


def in_words(record: PlanRecord) -> list[str]:
    """A line for each kind of device; none where all are equal."""
    return list(_lines(record)) if record.cluster.parts else []


def shares_in_words(record: PlanRecord) -> list[str]:
    """What each replica got of the batch, and why; nothing where there is one."""
    if not record.replicas:
        return []
    size = record.batch_size // record.microbatches
    slowest = max(r.step_time_s for r in record.replicas)
    lines = [f"{len(record.replicas)} replicas of the whole pipeline share the batch, as many microbatches each as its "
             f"devices are fast; gradients are added up between them in {units.seconds(record.sync_s)}."]
    for replica in record.replicas:
        each, part = replica.step_time_s / replica.microbatches, replica.microbatches / record.microbatches
        mine = [s.index for s in record.stages if record.replicas[record.replica_of(s)] is replica]
        lines.append(f"{replica.cluster.described} got {units.plural(replica.microbatches, 'microbatch')} of {size}, "
                     f"{units.share(part)} of the batch: it takes {units.seconds(each)} for one and "
                     f"{units.seconds(replica.step_time_s)} for all, {units.share(replica.step_time_s / slowest)} of "
                     "the slowest; stages "
                     f"{units.ranges(mine)}.")
    return lines


def _lines(record: PlanRecord) -> Iterator[str]:
    for got in by_kind(record):
        if not got.stages:
            beside = next((b for b in record.baselines if b.name == "several types" and b.step_time_s), None)
            than = f": with them, {units.seconds(beside.step_time_s)} at best" if beside and beside.step_time_s else ""
            yield f"{got.name}: idle, as no plan was found that is faster with them{than}."
            continue
        each, many = units.plural(len(got.layers), "layer"), "stage" if len(got.stages) == 1 else "stages"
        yield (f"{got.name}: {many} {units.ranges(got.stages)} with {each}, {units.share(got.work)} of the arithmetic "
               f"for {units.share(got.speed)} of the speed; busy {units.share(got.busy)} of the step, and "
               f"{units.size(got.peak_bytes)} of {units.size(got.memory_bytes)} full.")


def _got(record: PlanRecord, part: int, kind: Cluster, speed: float) -> Got:
    mine = [s for s in record.stages if record.cluster.part_of(s.devices[0]) == part]
    layers = tuple(n for s in mine for n in range(*s.layers))
    whole = record.microbatches * sum(layer.flops for layer in record.layers) or 1
    done = sum(record.microbatches_of(s) * record.layers[n].flops for s in mine for n in range(*s.layers))
    ranks = {record.layout.rank_of[s.index] for s in mine}
    devices = {record.layout.rank_of[s.index]: len(s.devices) for s in mine}
    spent = sum(len(s.devices) * sum(breakdown.stage_busy_s(s, record.microbatches_of(s))) for s in mine)
    busy = spent / (sum(devices.values()) * record.step_time_s) if mine and record.step_time_s else 0.0
    return Got(f"{kind.device_count} × {kind.device.name}", tuple(s.index for s in mine), layers, speed,
               done / whole,
               max((record.rank_bytes[r] for r in ranks), default=0), kind.device.memory_bytes, busy)
