"""The meshes a search looks at: per submesh, its logical meshes with axis names and what each axis may shard.

In: a cluster and pins. Out: `MeshSpace`s. Recipes (data parallel, FSDP, tensor parallel, Megatron's mixture) are
nothing but restrictions of what an axis may shard, so the same search prices them.
"""

from dataclasses import dataclass, replace
from math import prod

from planner.core.hardware import Cluster, LogicalMesh, Submesh
from planner.core.pins import Pins
from planner.costs.topology import logical_mesh, logical_meshes, searched_submeshes, submeshes
from planner.errors import PinError
from planner.schedules import SCHEDULES
from planner.strategies import AxisUse

DATA_NAMES = frozenset({"data", "dp", "batch", "replica"})
FSDP_NAMES = frozenset({"fsdp", "zero"})
TENSOR_NAMES = frozenset({"model", "tensor", "tp", "mp", "expert", "ep"})
RECIPES = (("data parallel", "data"), ("FSDP", "fsdp"), ("tensor parallel", "tensor"))
"""The standard recipes that every plan is shown beside: what they are called, and their pin."""

DEFAULT_NAMES = ("x", "y", "z")

SMALLEST = 256
"""Stages are looked for on one in so many of all devices at least. [chosen: a quarter of what the most stages that are
searched have each; what has less to do than they, as an embedding, wastes no more than that]"""


@dataclass(frozen=True)
class MeshSpace:
    """One logical mesh of a submesh, its axis names, what each axis may shard, the part of the cluster it is in."""

    mesh: LogicalMesh
    names: tuple[str, ...]
    uses: tuple[AxisUse, ...]
    part: int = 0


@dataclass(frozen=True)
class SubmeshSpace:
    """A submesh shape, the ways to see it, and in which part of the cluster it is."""

    submesh: Submesh
    meshes: tuple[MeshSpace, ...]
    part: int = 0


def recipe_uses(recipe: str | None, names: tuple[str, ...]) -> tuple[AxisUse, ...]:
    """What each mesh axis may shard under a recipe; `"megatron"` goes by the axes' names.

    Raises:
      PinError: for an unknown recipe.
    """
    simple = {None: AxisUse.ANY, "data": AxisUse.BATCH, "zero-1": AxisUse.ZERO_1, "zero-2": AxisUse.ZERO_2,
              "fsdp": AxisUse.FSDP, "tensor": AxisUse.TENSOR, "none": AxisUse.NONE}
    if recipe == "megatron":
        return tuple(AxisUse.BATCH if n in DATA_NAMES else AxisUse.FSDP if n in FSDP_NAMES else AxisUse.TENSOR if
                     n in TENSOR_NAMES else AxisUse.ANY for n in names)
    if recipe not in simple:
        raise PinError(f"unknown recipe {recipe!r}", f"known: {', '.join(sorted(k for k in simple if k))}, megatron")
    return (simple[recipe],) * len(names)


def mesh_spaces(cluster: Cluster, pins: Pins, *, max_dims: int = 2, single: bool = False) -> tuple[SubmeshSpace, ...]:
    """The submeshes that are searched and their logical meshes, under the pins; `single`: one stage on all devices.

    Raises:
      PinError: if pinned mesh axes don't fit.
    """
    if cluster.parts:
        return _of_parts(cluster, pins, max_dims)
    whole = cluster.device_count
    if pins.mesh_axes is not None:
        return _pinned(cluster, pins)
    found: list[SubmeshSpace] = []
    for submesh in searched_submeshes(cluster):
        if (single or pins.stages == 1) and submesh.device_count != whole:
            continue
        if submesh.device_count * max(SMALLEST, 4 * (pins.stages or 0)) < whole:
            continue
        meshes = logical_meshes(cluster, submesh, max_dims)
        if pins.recipe is not None and pins.recipe != "megatron":
            meshes = tuple(m for m in meshes if len(m.shape) <= 1)
        found.append(SubmeshSpace(submesh, tuple(
            MeshSpace(m, DEFAULT_NAMES[: len(m.shape)], recipe_uses(pins.recipe, DEFAULT_NAMES[: len(m.shape)]))
            for m in meshes)))
    return tuple(found)


def _of_parts(cluster: Cluster, pins: Pins, max_dims: int) -> tuple[SubmeshSpace, ...]:
    """Those of every part of a mixed cluster; where the mesh is pinned, of every part that has it."""
    found: list[SubmeshSpace] = []
    for n, part in enumerate(cluster.parts):
        try:
            spaces = mesh_spaces(part, replace(pins, stages=None, boundaries=None), max_dims=max_dims)
        except PinError:
            continue
        found += [SubmeshSpace(s.submesh, tuple(replace(m, part=n) for m in s.meshes), n) for s in spaces]
    if not found:
        raise PinError(f"no part of {cluster.name!r} has mesh axes {dict(pins.mesh_axes or ())}",
                       "choose sizes whose product is a power of two in a node, or whole nodes")
    return tuple(found)


def _several(pins: Pins) -> bool:
    """Whether ranks are to run several stages each."""
    return (pins.chunks or 1) > 1 or (pins.schedule is not None and SCHEDULES[pins.schedule].chunks[0] > 1)


def _pinned(cluster: Cluster, pins: Pins) -> tuple[SubmeshSpace, ...]:
    assert pins.mesh_axes is not None
    names = tuple(n for n, _ in pins.mesh_axes)
    shape = tuple(s for _, s in pins.mesh_axes)
    if len(set(names)) != len(names) or any(s < 1 for s in shape):
        raise PinError(f"mesh axes {pins.mesh_axes} are not distinct names with positive sizes", "e.g. data=4,model=2")
    per_stage = prod(shape)
    stages = pins.stages if pins.stages is not None else len(pins.boundaries) + 1 if pins.boundaries else None
    ranks = stages if stages is None or not _several(pins) else min(stages, cluster.device_count // per_stage)
    if cluster.device_count % per_stage or (ranks is not None and ranks * per_stage != cluster.device_count):
        want = f"{stages} stages of {per_stage} devices" if stages else f"stages of {per_stage} devices"
        raise PinError(f"mesh axes {dict(pins.mesh_axes)} make {want}; the cluster has {cluster.device_count} devices",
                       "choose sizes whose product times the number of stages is the device count")
    for submesh in submeshes(cluster):
        if submesh.device_count == per_stage:
            uses = recipe_uses(pins.recipe, names)
            return (SubmeshSpace(submesh, (MeshSpace(logical_mesh(cluster, submesh, shape), names, uses),)),)
    raise PinError(f"no submesh of {per_stage} devices exists on {cluster.nodes} nodes of {cluster.devices_per_node}",
                   "a stage uses a power of two of devices in one node, or whole nodes")
