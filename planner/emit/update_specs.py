"""Places of the weight update: parameters as stored, gradients and what operators work in as the update is sharded.

Each leaf of the optimizer's state that belongs to a parameter is sharded as the parameter's update.

A leaf belongs to a parameter if its path ends in the parameter's path and it has the same row and shape (Adam's
moments). Anything else (step counters, factored moments) is held whole, on the devices. Optimizer state in the host's
memory visits the devices part by part: a part is a run of parameters, no larger than the largest of them makes it.

In: the plan and the update graph. Out: home, spec and memory per leaf, the sharding of what the update works in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from planner.core.graph import Graph, Input, Output, Role
from planner.core.plan import DEVICE, HOST, ParamPlan, PlanRecord
from planner.core.spec import Spec, replicated, shard_count
from planner.costs.memory import shard_bytes


@dataclass(frozen=True, slots=True)
class LeafPlace:
    """The stage that holds a leaf, its sharding there, the memory it lies in, and the part of the update that it has to
    do with: 0, or one of those that bring optimizer state from the host."""

    home: int
    spec: Spec
    memory: str = DEVICE
    part: int = 0


def opt_state_places(record: PlanRecord, graph: Graph, leaves: Sequence[Input | Output]) -> tuple[LeafPlace, ...]:
    """Where every leaf of the optimizer state lives.

    Args:
      record: the plan.
      graph: the graph that `leaves` are inputs or outputs of.
      leaves: its OPT_STATE inputs or outputs.
    """
    parts, named = host_parts(record), by_name(record.params)
    found: list[LeafPlace] = []
    for leaf in leaves:
        shape = _shape(graph, leaf)
        owner = owner_of(named, leaf.path, leaf.row)
        if owner is None:
            found.append(LeafPlace(0, replicated(len(shape))))
        elif owner.shape != shape:
            found.append(LeafPlace(owner.home, replicated(len(shape))))
        else:
            found.append(LeafPlace(owner.home, owner.update_spec, owner.opt_memory, parts.get(owner.value, 0)))
    return tuple(found)


def host_parts(record: PlanRecord) -> dict[int, int]:
    """Value of a parameter whose optimizer state lies in the host's memory -> its part of the update, from 1.
    Consecutive parameters of a stage make a part while together they are no larger than the largest one."""
    found: dict[int, int] = {}
    for stage in record.stages:
        mine = [(p, prod(p.shape) // shard_count(p.update_spec, stage.mesh_shape)) for p in record.params
                if p.home == stage.index and p.opt_memory == HOST]
        most, part, size = max((n for _, n in mine), default=0), 1, 0
        for p, n in mine:
            if size and size + n > most:
                part, size = part + 1, 0
            found[p.value], size = part, size + n
    return found


def part_bytes(record: PlanRecord, graph: Graph, stage: int) -> dict[int, int]:
    """Per part of a stage's update from the host, the bytes that visit each device; a device holds two parts at most,
    one after the other."""
    found: dict[int, int] = {}
    if all(p.opt_memory == DEVICE for p in record.params):
        return found
    leaves, mesh = tuple(graph.inputs_of(Role.OPT_STATE)), record.stages[stage].mesh_shape
    for leaf, place in zip(leaves, opt_state_places(record, graph, leaves), strict=True):
        if place.home == stage and place.memory == HOST:
            size = shard_bytes(graph.values[leaf.value], place.spec, mesh)
            found[place.part] = found.get(place.part, 0) + size
    return found


def visiting_bytes(record: PlanRecord, graph: Graph, stage: int) -> int:
    """The most bytes of two parts of a stage's update from the host that follow each other."""
    sizes = part_bytes(record, graph, stage)
    return max((size + sizes.get(part + 1, 0) for part, size in sizes.items()), default=0)


def update_places(record: PlanRecord, graph: Graph) -> tuple[tuple[LeafPlace, ...], tuple[LeafPlace, ...]]:
    """Where every input and every output of the update graph lies: parameters and optimizer state where they are
    stored, gradients as the update is sharded."""
    parts = host_parts(record)
    own = [LeafPlace(p.home, p.spec, part=parts.get(p.value, 0)) for p in record.params]
    kept = (*own, *opt_state_places(record, graph, tuple(graph.inputs_of(Role.OPT_STATE))))
    return (*kept, *(replace(at, spec=p.update_spec) for at, p in zip(own, record.params, strict=True))), kept


def work_specs(record: PlanRecord, graph: Graph) -> dict[int, Spec]:
    """Value of the update graph -> the sharding that the update works in: old and new parameters, moments,
    gradients."""
    found: dict[int, Spec] = {}
    planned = {(p.path, p.row): p.update_spec for p in record.params}
    for end in (*graph.inputs, *graph.outputs):
        value = end.value if isinstance(end, Input) else end.operand
        if isinstance(value, int) and end.role in (Role.PARAM, Role.GRAD):
            found[value] = planned[end.path, end.row]
    leaves = tuple(graph.inputs_of(Role.OPT_STATE))
    places = opt_state_places(record, graph, leaves)
    for leaf, where in zip(leaves, places, strict=True):
        found[leaf.value] = where.spec
    for out, where in zip(graph.outputs_of(Role.OPT_STATE), places, strict=True):
        if isinstance(out.operand, int):
            found.setdefault(out.operand, where.spec)
    return found


def by_name(params: Sequence[ParamPlan]) -> dict[tuple[str, int | None], ParamPlan]:
    """Parameters by path and row."""
    return {(p.path, p.row): p for p in reversed(params)}


def owner_of(named: Mapping[tuple[str, int | None], ParamPlan], path: str, row: int | None) -> ParamPlan | None:
    """The parameter that a leaf of the optimizer state belongs to by name: the one whose path is its longest ending."""
    parts = path.split("/")
    endings = ("/".join(parts[k:]) for k in range(len(parts) + 1))
    return next((named[ending, row] for ending in endings if (ending, row) in named), None)


def _shape(graph: Graph, leaf: Input | Output) -> tuple[int, ...]:
    if isinstance(leaf, Input):
        return graph.values[leaf.value].shape
    return graph.values[leaf.operand].shape if isinstance(leaf.operand, int) else leaf.operand.shape
