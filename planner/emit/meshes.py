"""From a plan's mesh axes and specs to JAX's meshes and shardings.

In: a `StagePlan` and devices. Out: `Mesh`, `PartitionSpec`, `NamedSharding`. Axes are `Auto`: GSPMD fills in what the
plan leaves open (arXiv:2105.04663).
"""

from collections.abc import Sequence

import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from planner.core.plan import DEVICE, StagePlan
from planner.core.spec import Spec


def stage_mesh(stage: StagePlan, devices: Sequence[object]) -> Mesh:
    """The logical mesh of a stage over its devices; a single device is a mesh of one axis of size 1.

    Args:
      stage: the stage; `stage.devices` index `devices`.
      devices: all devices of the run, flat.
    """
    chosen = np.empty(len(stage.devices), dtype=object)
    chosen[:] = [devices[n] for n in stage.devices]
    names = stage.mesh_axes or ("device",)
    return Mesh(chosen.reshape(stage.mesh_shape or (1,)), names, axis_types=(AxisType.Auto,) * len(names))


def partition_spec(spec: Spec, axis_names: Sequence[str]) -> PartitionSpec:
    """A spec in JAX's words: `((0,), ())` over `("data", "model")` is `PartitionSpec("data", None)`."""
    return PartitionSpec(*(None if not axes else axis_names[axes[0]] if len(axes) == 1 else
                           tuple(axis_names[a] for a in axes) for axes in spec))


def sharding(mesh: Mesh, spec: Spec, memory: str = DEVICE) -> NamedSharding:
    """A spec on a mesh, in the devices' own memory or their host's. The kind of their own is left unsaid: whoever
    compares shardings finds those equal that JAX made."""
    where = NamedSharding(mesh, partition_spec(spec, mesh.axis_names))
    return where if memory == DEVICE else where.with_memory_kind(memory)
