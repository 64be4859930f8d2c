"""From a plan's mesh axes and specs to JAX's meshes and shardings.

In: a `StagePlan` and devices. Out: `Mesh`, `PartitionSpec`, `NamedSharding`. Axes are `Auto`: GSPMD fills in what the
plan leaves open (arXiv:2105.04663).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from planner.compat import coordinates
from planner.core.hardware import Cluster
from planner.core.plan import DEVICE, StagePlan
from planner.core.spec import Spec
from planner.costs.torus import in_line


def stage_mesh(stage: StagePlan, devices: Sequence[object]) -> Mesh:
    """The logical mesh of a stage over its devices; a single device is a mesh of one axis of size 1.

    Args:
      stage: the stage; `stage.devices` index `devices`.
      devices: all devices of the run, flat.
    """
    chosen = np.empty(len(stage.devices), dtype=object)
    chosen[:] = [devices[stage.devices[n]] for n in stage.order or range(len(stage.devices))]
    names = stage.mesh_axes or ("device",)
    return Mesh(chosen.reshape(stage.mesh_shape or (1,)), names, axis_types=(AxisType.Auto,) * len(names))


def laid_out(cluster: Cluster, devices: Sequence[Any]) -> list[Any]:
    """Devices in the order in which plans for that cluster number them: chips of a torus by their coordinates, all
    others, and slices of another shape, as they are given."""
    at = [coordinates(device) for device in devices]
    known = [c for c in at if c is not None]
    order = in_line(cluster, known) if len(known) == len(devices) else None
    return [devices[n] for n in order] if order else list(devices)


def partition_spec(spec: Spec, axis_names: Sequence[str]) -> PartitionSpec:
    """A spec in JAX's words: `((0,), ())` over `("data", "model")` is `PartitionSpec("data", None)`."""
    return PartitionSpec(*(None if not axes else axis_names[axes[0]] if len(axes) == 1 else
                           tuple(axis_names[a] for a in axes) for axes in spec))


def sharding(mesh: Mesh, spec: Spec, memory: str = DEVICE) -> NamedSharding:
    """A spec on a mesh, in the devices' own memory or their host's. The kind of their own is left unsaid: whoever
    compares shardings finds those equal that JAX made."""
    where = NamedSharding(mesh, partition_spec(spec, mesh.axis_names))
    return where if memory == DEVICE else where.with_memory_kind(memory)
