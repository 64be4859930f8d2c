"""Data-parallel replicas of the whole pipeline, one on each part of a mixed cluster, with a share of the batch each.

All microbatches have the same size; a replica computes so many of them as its part is fast. Then gradients are added up
over the link between parts, and every replica updates its own copy of the parameters in the same way. Sources: Gavel
(Narayanan et al., OSDI'20), whose throughputs by type of device say how much of a job each gets; Metis (Um et al.,
USENIX ATC'24), which gives data-parallel groups of unequal devices unequal parts of a batch.

In: a plan for each replica, on its part alone. Out: one `PlanRecord` of all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from planner.core.hardware import Cluster
from planner.core.plan import PlanRecord, StagePlan


@dataclass(frozen=True)
class Shares:
    """What replicas have in common.

    Attributes:
      cluster: the whole.
      parts: of each replica, the part that it is on.
      batch_size, fingerprint: of the whole batch, and of the program of all its microbatches.
      sync_s: from the end of the slowest replica's work to the end of the step.
      model_flops: of a step.
    """

    cluster: Cluster
    parts: tuple[int, ...]
    batch_size: int
    fingerprint: str
    sync_s: float
    model_flops: int


def together(shares: Shares, replicas: Sequence[PlanRecord]) -> PlanRecord:
    """The plan of all replicas, in the order of their parts."""
    first, on = replicas[0], shares.cluster
    step_s = max(r.step_time_s for r in replicas) + shares.sync_s
    return replace(
        first, cluster=on, device_count=on.device_count, batch_size=shares.batch_size,
        microbatches=sum(r.microbatches for r in replicas), fingerprint=shares.fingerprint,
        stages=all_stages(on, replicas), step_time_s=step_s, model_flops=shares.model_flops,
        lower_bound_s=min(step_s, max(r.lower_bound_s for r in replicas)), baselines=(), schedules=(), alternatives=(),
        pruned=(), phases_s=(), warnings=tuple(dict.fromkeys(w for r in replicas for w in r.warnings)),
        replicas=tuple(replace(r, baselines=(), phases_s=(), alternatives=(), schedules=()) for r in replicas),
        sync_s=shares.sync_s)


def all_stages(cluster: Cluster, replicas: Sequence[PlanRecord]) -> tuple[StagePlan, ...]:
    """The stages of all replicas, numbered one after the other, on the devices of the whole cluster."""
    found: list[StagePlan] = []
    for replica, part in zip(replicas, parts_of(cluster, replicas), strict=True):
        first = cluster.first_of(part)
        found += [replace(s, index=len(found) + n, devices=tuple(first + d for d in s.devices))
                  for n, s in enumerate(replica.stages)]
    return tuple(found)


def parts_of(cluster: Cluster, replicas: Sequence[PlanRecord]) -> tuple[int, ...]:
    """Of each replica, the part that it is on: they come in the order of parts.

    Raises:
      ValueError: a replica's cluster is none of the parts left.
    """
    found: list[int] = []
    for replica in replicas:
        left = range(found[-1] + 1 if found else 0, len(cluster.parts))
        found.append(next((n for n in left if cluster.parts[n] == replica.cluster), -1))
        if found[-1] < 0:
            raise ValueError(f"{replica.cluster.name!r} is no part of {cluster.name!r} after those of other replicas")
    return tuple(found)


def devices_of(record: PlanRecord, replica: int) -> range:
    """The devices of the whole cluster that a replica's are, in its order."""
    part = parts_of(record.cluster, record.replicas)[replica]
    first = record.cluster.first_of(part)
    return range(first, first + record.cluster.parts[part].device_count)


def inside(record: PlanRecord, stage: StagePlan) -> tuple[PlanRecord, StagePlan]:
    """The plan that a stage is planned in, and what it is there: of a plan without replicas, itself."""
    first = 0
    for replica in record.replicas:
        if stage.index < first + len(replica.stages):
            return replica, replica.stages[stage.index - first]
        first += len(replica.stages)
    return record, stage


def as_if_alone(record: PlanRecord) -> tuple[PlanRecord, ...]:
    """A plan for each replica, on the devices of the whole cluster; without replicas, the plan itself."""
    found: list[PlanRecord] = []
    for n, replica in enumerate(record.replicas):
        first = devices_of(record, n)[0]
        stages = tuple(replace(s, devices=tuple(first + d for d in s.devices)) for s in replica.stages)
        found.append(replace(replica, cluster=record.cluster, device_count=record.device_count, stages=stages))
    return tuple(found) or (record,)
