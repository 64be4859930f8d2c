"""Whether a plan makes sense: what its types can't say, checked when a plan is read from a file.

In: a `PlanRecord` whose fields have their types. Out: nothing, or `PlanSenseError` naming the place of the first fault
(`plan.stages[1].devices`). Stages have the same devices or none in common, and lie on them in a known placement;
they cover the layers in order; specs name axes that their mesh has; nothing is negative. The schedule's name is looked
up by whoever needs the schedule.
"""

import dataclasses
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

from planner.core.hardware import Cluster
from planner.core.layout import Placement, layout_of
from planner.core.plan import DEVICE, HOST, SCHEMA_VERSION, ParamPlan, PlanRecord, StagePlan
from planner.core.replicas import all_stages
from planner.core.spec import Spec, is_legal

_KINDS = ("train", "inference", "step")
_SIGNED = frozenset({"gain_s"})
"""Names of fields that may be negative."""
_LARGEST = 1e30
"""Above every byte, FLOP or second that a plan counts, far below where a float overflows when such are multiplied."""


class PlanSenseError(ValueError):
    """A field contradicts another, or can't be; the message names the place."""


def check_plan_record(plan: PlanRecord) -> None:
    """Raise unless the plan is one that could be run, drawn and simulated.

    Raises:
      PlanSenseError: see the module.
    """
    if not _are_sensible(plan):
        _check_numbers(plan, "plan")
    _check_cluster(plan.cluster, "plan.cluster")
    _check_whole(plan)
    _check_layers(plan)
    if plan.replicas:
        _check_replicas(plan)
    for n, stage in enumerate(plan.stages):
        if not plan.replicas:
            _check_stage(plan, n, stage)
    if not plan.replicas:
        _check_sequence(plan.stages)
    for n, param in enumerate(plan.params):
        _check_param(plan.stages, param, f"plan.params[{n}]")


def _require(holds: object, place: str, fault: str) -> None:
    if not holds:
        raise PlanSenseError(f"{place} {fault}")


def _are_sensible(value: Any) -> bool:
    """Whether `_check_numbers` would find nothing, which is quicker to see without places."""
    if isinstance(value, int | float):
        return 0 <= value <= _LARGEST
    if isinstance(value, tuple):
        return all(map(_are_sensible, cast(tuple[Any, ...], value)))
    return not dataclasses.is_dataclass(value) or all(
        _are_sensible(_unsigned(value, field.name)) for field in dataclasses.fields(value))


def _check_numbers(value: Any, place: str) -> None:
    """No number in a plan is negative but those of `_SIGNED`: they count things, or measure seconds and bytes."""
    if isinstance(value, int | float):
        _require(value >= 0, place, f"is {value}, which is negative")
        _require(value <= _LARGEST, place, f"is above {_LARGEST:g}, which nothing in a plan can be")
    elif isinstance(value, tuple):
        for n, part in enumerate(cast(tuple[Any, ...], value)):
            _check_numbers(part, f"{place}[{n}]")
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            _check_numbers(_unsigned(value, field.name), f"{place}.{field.name}")


def _unsigned(value: Any, name: str) -> Any:
    """A field; without its sign where it may have one: a rewrite may cost by itself what a later one gains."""
    field = getattr(value, name)
    return abs(field) if name in _SIGNED else field


def _check_cluster(cluster: Cluster, place: str) -> None:
    device = cluster.device
    for name, number in (
            ("nodes", cluster.nodes), ("devices_per_node", cluster.devices_per_node),
            ("device.memory_bytes", device.memory_bytes), ("device.matmul_efficiency", device.matmul_efficiency),
            ("device.memory_bandwidth_bytes_per_s", device.memory_bandwidth_bytes_per_s),
            ("intra_node.bandwidth_bytes_per_s", cluster.intra_node.bandwidth_bytes_per_s),
            ("inter_node.bandwidth_bytes_per_s", cluster.inter_node.bandwidth_bytes_per_s)):
        _require(number > 0, f"{place}.{name}", "is 0")
    if cluster.torus is not None:
        _require(cluster.torus.dimensions in (2, 3), f"{place}.torus.dimensions", "is neither 2 nor 3")
        _require(cluster.torus.closes_at > 0, f"{place}.torus.closes_at", "is 0")
        _require(cluster.torus.link.bandwidth_bytes_per_s > 0, f"{place}.torus.link.bandwidth_bytes_per_s", "is 0")
    inner = 1
    for n, level in enumerate(cluster.levels):
        _require(level.nodes > inner and level.nodes % inner == 0, f"{place}.levels[{n}].nodes",
                 f"is {level.nodes}, no multiple of the {inner} of the level below")
        _require(level.link.bandwidth_bytes_per_s > 0, f"{place}.levels[{n}].link.bandwidth_bytes_per_s", "is 0")
        inner = level.nodes
    for field in dataclasses.fields(cluster.overlap) if cluster.overlap else ():
        _require(getattr(cluster.overlap, field.name) <= 1, f"{place}.overlap.{field.name}", "is above 1")
    rates = f"{place}.device.peak_flops_per_s"
    _require("default" in dict(device.peak_flops_per_s), rates, "has no rate 'default'")
    for n, (_, rate) in enumerate(device.peak_flops_per_s):
        _require(rate > 0, f"{rates}[{n}]", "is 0")


def _check_whole(plan: PlanRecord) -> None:
    _require(plan.schema_version == SCHEMA_VERSION, "plan.schema_version",
             f"is {plan.schema_version}, the file's is {SCHEMA_VERSION}")
    _require(plan.kind in _KINDS, "plan.kind", f"is {plan.kind!r}, not one of {', '.join(_KINDS)}")
    _require(plan.device_count == plan.cluster.device_count, "plan.device_count",
             f"is {plan.device_count}, its cluster has {plan.cluster.device_count} devices")
    _require(plan.microbatches > 0, "plan.microbatches", "is 0")
    _require(plan.batch_size % plan.microbatches == 0, "plan.microbatches",
             f"is {plan.microbatches}, which does not divide the batch of {plan.batch_size}")
    _require(plan.stages, "plan.stages", "is empty")
    _require(plan.kind != "step" or len(plan.stages) == plan.microbatches == 1, "plan.kind",
             "is 'step', which is one stage and one microbatch")
    _require(plan.lower_bound_s <= plan.step_time_s * (1 + 1e-9), "plan.lower_bound_s",
             f"is {plan.lower_bound_s:g}, above plan.step_time_s, {plan.step_time_s:g}")


def _check_replicas(plan: PlanRecord) -> None:
    """Each is a plan by itself, on a part of the cluster; what the whole says of them is what they say."""
    place, replicas = "plan.replicas", plan.replicas
    _require(len(replicas) > 1, place, "has one, which is no replica")
    _require(plan.kind == "train", place, f"are of a plan for {plan.kind}")
    size = plan.batch_size // plan.microbatches
    for n, replica in enumerate(replicas):
        _require(not replica.replicas, f"{place}[{n}].replicas", "is not empty")
        _require(replica.batch_size == size * replica.microbatches, f"{place}[{n}].batch_size",
                 f"is {replica.batch_size}, not {replica.microbatches} microbatches of {size}")
        _require([(p.path, p.row) for p in replica.params] == [(p.path, p.row) for p in plan.params],
                 f"{place}[{n}].params", "are not those of the plan")
        try:
            check_plan_record(replica)
        except PlanSenseError as fault:
            raise PlanSenseError(f"{place}[{n}]: {fault}") from fault
    for name in ("microbatches", "batch_size"):
        whole = sum(getattr(r, name) for r in replicas)
        _require(getattr(plan, name) == whole, f"plan.{name}", f"is {getattr(plan, name)}, its replicas have {whole}")
    try:
        stages = all_stages(plan.cluster, replicas)
    except ValueError as fault:
        raise PlanSenseError(f"{place}: {fault}") from fault
    _require(plan.stages == stages, "plan.stages", "are not those of its replicas")
    _require(plan.params == replicas[0].params, "plan.params", "are not those of its first replica")


def _check_layers(plan: PlanRecord) -> None:
    place = "plan.layers"
    _check_cover([layer.ops for layer in plan.layers], len(plan.ops), place, "ops", "operators in plan.ops")
    for n, op in enumerate(plan.ops):
        first, last = plan.layers[op.layer].ops if op.layer < len(plan.layers) else (0, 0)
        _require(first <= n < last, f"plan.ops[{n}].layer", f"is {op.layer}, which does not hold operator {n}")
        _require(all(r < n for r in op.reads), f"plan.ops[{n}].reads", "names an operator that comes later")


def _check_sequence(stages: Sequence[StagePlan]) -> None:
    """A device works for several stages only if they have all their devices in common, and lie as a placement says."""
    owner: dict[int, int] = {}
    for n, stage in enumerate(stages):
        for device in stage.devices:
            first = owner.setdefault(device, n)
            _require(stages[first].devices == stage.devices, f"plan.stages[{n}].devices",
                     f"holds device {device}, which stage {first} holds, and not all the same devices")
    layout = layout_of([stage.devices for stage in stages])
    _require(any(layout.follows(placement) for placement in Placement), "plan.stages",
             f"share devices in an order that no schedule knows: the ranks of the stages are {list(layout.rank_of)}")


def _check_cover(ranges: Sequence[tuple[int, int]], count: int, place: str, name: str, of: str) -> None:
    """Half-open ranges one after the other, from 0 to the count."""
    for n, (first, last) in enumerate(ranges):
        _require(first <= last, f"{place}[{n}].{name}", f"is [{first}, {last}), which ends before it starts")
    _require(not ranges or ranges[0][0] == 0, f"{place}[0].{name}", "does not start at 0")
    for n, (before, after) in enumerate(pairwise(ranges)):
        _require(before[1] == after[0], f"{place}[{n + 1}].{name}",
                 f"starts at {after[0]}, where the one before ends at {before[1]}")
    end = ranges[-1][1] if ranges else 0
    _require(end == count, f"{place}[{max(len(ranges) - 1, 0)}].{name}", f"ends at {end}, there are {count} {of}")


def _check_stage(plan: PlanRecord, n: int, stage: StagePlan) -> None:
    place, mesh = f"plan.stages[{n}]", stage.mesh_shape
    if n == 0:
        _check_cover([s.layers for s in plan.stages], len(plan.layers), "plan.stages", "layers", "in plan.layers")
        _check_cover([s.ops for s in plan.stages], len(plan.ops), "plan.stages", "ops", "operators in plan.ops")
    first, last = stage.layers
    _require(stage.index == n, f"{place}.index", f"is {stage.index} in place {n}")
    _require(len(stage.mesh_axes) == len(mesh), f"{place}.mesh_axes",
             f"names {len(stage.mesh_axes)} axes of a mesh of {len(mesh)}")
    _require(len(set(stage.mesh_axes)) == len(mesh), f"{place}.mesh_axes", "names an axis twice")
    _require(stage.devices and math.prod(mesh) == len(stage.devices), f"{place}.mesh_shape",
             f"{list(mesh)} is a mesh of {math.prod(mesh)} devices, the stage has {len(stage.devices)}")
    for device in stage.devices:
        _require(device < plan.device_count, f"{place}.devices",
                 f"holds device {device}, the plan has {plan.device_count} (0 to {plan.device_count - 1})")
    _require(len(set(stage.devices)) == len(stage.devices), f"{place}.devices", "holds a device twice")
    _require(not stage.order or sorted(stage.order) == list(range(len(stage.devices))), f"{place}.order",
             f"does not name each of the stage's {len(stage.devices)} devices once")
    for m, (_, spec) in enumerate(stage.specs):
        _check_axes(spec, mesh, f"{place}.specs[{m}]")
    for m, (_, _, spec) in enumerate(stage.uses):
        _check_axes(spec, mesh, f"{place}.uses[{m}]")
    for m, move in enumerate(stage.collectives):
        _require(move.per in ("microbatch", "batch"), f"{place}.collectives[{m}].per", f"is {move.per!r}")
        _check_axes((move.axes,), mesh, f"{place}.collectives[{m}].axes")
    _require(len(stage.layer_times) in (0, last - first), f"{place}.layer_times",
             f"has {len(stage.layer_times)} of {last - first} layers")
    _require(all(first <= layer < last for layer in stage.recompute), f"{place}.recompute",
             f"names a layer that is not of the stage, which has [{first}, {last})")
    _require(all(first <= layer < last for layer in stage.offload), f"{place}.offload",
             f"names a layer that is not of the stage, which has [{first}, {last})")
    some = [layer for layer, _ in stage.selected]
    _require(all(first <= layer < last for layer in some), f"{place}.selected",
             f"names a layer that is not of the stage, which has [{first}, {last})")
    _require(len(set(some)) == len(some) and not set(some) & set(stage.recompute), f"{place}.selected",
             "names a layer twice, or one that is recomputed whole")
    beside = [s for s in plan.stages if s.devices == stage.devices]  # at the peak, one of them may have none
    _require(any(s.in_flight or s.waiting for s in beside) and stage.in_flight <= plan.microbatches,
             f"{place}.in_flight", f"is {stage.in_flight}, of {plan.microbatches} microbatches")
    _require(stage.waiting <= plan.microbatches, f"{place}.waiting",
             f"is {stage.waiting}, of {plan.microbatches} microbatches")


def _check_axes(spec: Spec, mesh: tuple[int, ...], place: str) -> None:
    """A spec by itself: its axes exist, each is used once."""
    axes = [axis for part in spec for axis in part]
    for axis in axes:
        _require(axis < len(mesh), place, f"names mesh axis {axis}, the stage's mesh has {len(mesh)}")
    _require(len(axes) == len(set(axes)), place, "uses a mesh axis twice")


def _check_param(stages: Sequence[StagePlan], param: ParamPlan, place: str) -> None:
    _require(param.home < len(stages), f"{place}.home", f"is stage {param.home} of {len(stages)}")
    _require(param.opt_memory in (DEVICE, HOST), f"{place}.opt_memory",
             f"is {param.opt_memory!r}, neither {DEVICE!r} nor {HOST!r}")
    mesh = stages[param.home].mesh_shape
    for name, spec in (("spec", param.spec), ("update_spec", param.update_spec)):
        _check_axes(spec, mesh, f"{place}.{name}")
        _require(is_legal(spec, param.shape, mesh), f"{place}.{name}",
                 f"does not divide the shape {list(param.shape)} of {param.path!r} over the mesh {list(mesh)}")
