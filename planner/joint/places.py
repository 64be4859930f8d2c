"""Where a plan's stages are: on which submeshes, of which type of devices, with how much of the model.

In: a `PlanRecord`, pins. Out: `Place`s, on which rewritten programs are priced.
"""

from dataclasses import dataclass

from planner.core.hardware import Cluster, Device, Submesh
from planner.core.pins import Pins
from planner.core.plan import PlanRecord, StagePlan
from planner.costs.topology import logical_mesh
from planner.spaces import MeshSpace, mesh_spaces

ENOUGH = 1_000_000
"""Devices' worth of memory that is as good as no limit. [chosen]"""


@dataclass(frozen=True)
class Place:
    """Submeshes of one size and type.

    Attributes:
      hardware: the cluster that meshes are of, all of one of its `kinds`.
      meshes: the logical meshes of such a submesh.
      share: of the work of a step that is done on such submeshes; of all places 1.
      ranks: groups of devices that share the model's memory.
      in_flight: microbatches at the most.
      replica: of the pipeline, whose places work one after the other while those of other replicas do.
    """

    hardware: Cluster
    meshes: tuple[MeshSpace, ...]
    share: float
    ranks: int
    in_flight: int
    replica: int = 0

    @property
    def device(self) -> Device:
        """What the submeshes are made of."""
        return self.hardware.kinds[self.meshes[0].part].device


def places_of(record: PlanRecord, pins: Pins) -> tuple[Place, ...]:
    """Where the stages of a plan are, one place per replica, type of devices and size of submesh."""
    return tuple(place for n, pipeline in enumerate(record.replicas or (record,))
                 for place in _of_pipeline(pipeline, pins, pipeline.microbatches / record.microbatches, n))


def _of_pipeline(record: PlanRecord, pins: Pins, share: float, replica: int) -> list[Place]:
    on = record.cluster
    parts = {on.part_of(s.devices[0]) for s in record.stages}
    hardware = on.kinds[min(parts)] if len(parts) == 1 else on  # what uses one type alone is planned as if it were all
    spaces = {(s.part, s.submesh.device_count): s.meshes
              for s in mesh_spaces(hardware, pins, single=record.kind == "step")}
    groups: dict[tuple[int, int], list[StagePlan]] = {}
    for stage in record.stages:
        part = on.part_of(stage.devices[0]) if hardware is on else 0
        groups.setdefault((part, len(stage.devices)), []).append(stage)
    layers = sum(last - first for first, last in (s.layers for s in record.stages))
    return [Place(hardware, spaces[key], share * sum(s.layers[1] - s.layers[0] for s in stages) / layers,
                  record.layout.ranks, max(s.in_flight for s in stages), replica)
            for key, stages in groups.items()]


def one_device(cluster: Cluster) -> Place:
    """A single device, of the first type, that everything fits on."""
    kind = cluster.kinds[0]
    return Place(kind, (MeshSpace(logical_mesh(kind, Submesh(1, 1), ()), (), ()),), 1.0, ENOUGH, 1)
