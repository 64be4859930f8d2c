"""What replicas of a pipeline take to add up their gradients over the link between parts, and to hold what comes.

Every replica sends its gradients to every other one, each device of the receiver its shard. What limits is the busiest
node: all that its devices take in, or that others take from it, goes over its one wire between parts, each way. Nothing
of it hides: a gradient is whole when the last microbatch of the slowest replica is done. Every replica then adds up in
the same order and updates; the step ends with the slowest update, while the search ends each replica with its own.

In: a mixed cluster, the plan of each replica. Out: seconds; bytes.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from math import prod

from planner.core.hardware import Cluster
from planner.core.plan import ParamPlan, PlanRecord, StagePlan
from planner.core.replicas import parts_of
from planner.core.spec import shard_count
from planner.costs.memory import itemsize


def sync_s(cluster: Cluster, replicas: Sequence[PlanRecord]) -> float:
    """Seconds from the end of the slowest replica, its own update included, to the end of the step."""
    ends = [r.step_time_s for r in replicas]
    updates = [[s.time.update_s + s.time.host_batch_s for s in r.stages] for r in replicas]
    slowest = ends.index(max(ends))
    waits = max(0.0, max(map(max, updates)) - min(updates[slowest]))
    return exchange_s(cluster, replicas) + max(_adding_s(r, len(replicas)) for r in replicas) + waits


def exchange_s(cluster: Cluster, replicas: Sequence[PlanRecord]) -> float:
    """Seconds in which all gradients cross between parts."""
    assert cluster.between is not None
    parts, load = parts_of(cluster, replicas), dict[tuple[str, int], float]()
    for a, b in permutations(range(len(replicas)), 2):
        for given, taken in zip(replicas[a].params, replicas[b].params, strict=True):
            sender, receiver = (_nodes(cluster, replicas[r].stages[p.home], parts[r])
                                for r, p in ((a, given), (b, taken)))
            each = _shard_bytes(replicas[b], taken)
            for node in receiver:
                load["in", node] = load.get(("in", node), 0.0) + each
            for node in set(sender):
                share = each * len(receiver) / len(set(sender))
                load["out", node] = load.get(("out", node), 0.0) + share
    link = cluster.between
    return max(load.values(), default=0.0) / link.bandwidth_bytes_per_s + (len(replicas) - 1) * link.latency_s


def with_received(replica: PlanRecord, count: int) -> PlanRecord:
    """A replica with the memory of its devices while gradients of so many replicas lie there, its own and those that
    came, beside parameters, optimizer state and the sums that it made them of."""
    stages: list[StagePlan] = []
    for stage in replica.stages:
        m = stage.memory
        resident = m.params_bytes + m.opt_state_bytes + m.grads_bytes
        need = resident + int(count * _gradient_bytes(replica, stage))
        more = max(0, need - m.total_bytes)
        stages.append(replace(stage, memory=replace(m, transient_bytes=m.transient_bytes + more)))
    return replace(replica, stages=tuple(stages))


def _adding_s(replica: PlanRecord, count: int) -> float:
    """Reading gradients of so many replicas and writing their sum, by a program of each stage."""
    device, found = replica.cluster.device, list[float]()
    for stage in replica.stages:
        results = sum(p.home == stage.index for p in replica.params)
        moved = (count + 1) * _gradient_bytes(replica, stage)
        found.append(moved / device.memory_bandwidth_bytes_per_s + device.dispatch_s + results * device.result_s)
    return max(found)


def _gradient_bytes(replica: PlanRecord, stage: StagePlan) -> float:
    """Gradients of a stage's parameters on one of its devices."""
    return sum(_shard_bytes(replica, p) for p in replica.params if p.home == stage.index)


def _shard_bytes(replica: PlanRecord, param: ParamPlan) -> float:
    mesh = replica.stages[param.home].mesh_shape
    return prod(param.shape) * itemsize(param.dtype) / shard_count(param.update_spec, mesh)


def _nodes(cluster: Cluster, stage: StagePlan, part: int) -> list[int]:
    """Of each device of a replica's stage, its node in the whole cluster."""
    first = cluster.first_of(part)
    return [cluster.node_of(first + d) for d in stage.devices]
