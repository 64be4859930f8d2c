"""What a step of a rewritten program takes, by the intra-operator search: seconds of all its layers on the meshes that
the stages of a plan have.

The plan says which submeshes stages are on and how much of the model each has. On every logical mesh of such a submesh
the distinct layers of the rewritten program are solved and composed to the whole model, with as much memory as all its
stages have together; of the meshes the fastest counts. That is the work of a step, with what it communicates; how it
falls into stages is for the search that follows.

In: a `Request`, the plan found without rewrites, its program. Out: seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from planner.core.graph import Graph, Program
from planner.core.hardware import Cluster, Submesh
from planner.core.pins import Pins
from planner.core.plan import PlanRecord, StagePlan
from planner.costs.topology import logical_mesh
from planner.intraop.compose import slice_table
from planner.intraop.distinct import distinct_slices
from planner.intraop.fastest import fastest_fitting
from planner.intraop.setting import MAX_CLASSES
from planner.joint.reduced import Reduced
from planner.mesh_tables import PricedClass, memory_prices, no_price, priced_layers, solved_layers
from planner.prepared import Prepared, prepare
from planner.rules import graph_flops
from planner.solvers.elimination_code import WidthExceeded
from planner.spaces import MeshSpace, mesh_spaces

ENOUGH = 1_000_000
"""Devices' worth of memory that is as good as no limit. [chosen]"""


class UnlikeError(Exception):
    """The layers of a rewritten program do not repeat as those of the program that it was made of."""


@dataclass(frozen=True)
class Place:
    """Logical meshes of one submesh, the share of the model on such submeshes, how many stages share the memory, and
    microbatches in flight."""

    meshes: tuple[MeshSpace, ...]
    share: float
    stages: int
    in_flight: int


@dataclass(frozen=True)
class Pricing:
    """Where and for whom programs are priced."""

    cluster: Cluster
    pins: Pins
    places: tuple[Place, ...]

    def seconds(self, program: Program, whole: Reduced) -> float:
        """Of a step of the model whose distinct layers a program has; infinite where it fits on no mesh.

        Raises:
          UnlikeError: its layers are not those that `whole` knows how to repeat.
        """
        prepared = prepare(program, self.cluster.device)
        classes = whole.expanded(prepared.layers.classes)
        if classes is None:
            raise UnlikeError
        return sum(p.share * min((self._on(prepared, classes, mesh, p) for mesh in p.meshes), default=float("inf"))
                   for p in self.places)

    def floor_s(self, forward: Graph, microbatches: int) -> float:
        """Below `seconds` of every program with that forward graph: what its arithmetic takes at the peak rate."""
        fastest = max(rate for _, rate in self.cluster.device.peak_flops_per_s)
        devices = max(p.meshes[0].mesh.device_count for p in self.places)
        return graph_flops(forward) * microbatches / fastest / devices

    def _on(self, prepared: Prepared, classes: Sequence[int], space: MeshSpace, place: Place) -> float:
        for open_dims in (MAX_CLASSES, 4, 3, 2):
            try:
                layers = priced_layers(prepared, space, self.cluster, self.pins, open_dims)
                return self._composed(prepared, layers, classes, space, place)
            except WidthExceeded as error:
                too_wide = error
        raise too_wide

    def _composed(self, prepared: Prepared, layers: Sequence[PricedClass], classes: Sequence[int], space: MeshSpace,
                  place: Place) -> float:
        slices, usable = distinct_slices(classes), self.cluster.device.usable_bytes * place.stages
        whole, count = int(slices.at[0, len(classes) - 1]), prepared.program.microbatches
        for prices in (no_price(prepared, self.pins),
                       memory_prices(prepared, self.cluster, space.mesh.device_count, self.pins)):
            solved = solved_layers(prepared, layers, prices)
            table = slice_table(prepared.program.micro, space.mesh, [solved[c] for c in classes], slices, prices,
                                microbatches=count, training=prepared.program.kind == "train")
            seconds, _ = fastest_fitting(table, (place.in_flight,), usable)
            if np.isfinite(seconds[0, whole]):
                return float(seconds[0, whole]) * count
        return float("inf")


def places_of(record: PlanRecord, pins: Pins) -> tuple[Place, ...]:
    """Where the stages of a plan are, one place per size of submesh."""
    spaces = {s.submesh.device_count: s.meshes for s in mesh_spaces(record.cluster, pins,
                                                                    single=record.kind == "step")}
    sizes: dict[int, list[StagePlan]] = {}
    for stage in record.stages:
        sizes.setdefault(len(stage.devices), []).append(stage)
    layers = sum(last - first for first, last in (s.layers for s in record.stages))
    return tuple(Place(spaces[size], sum(s.layers[1] - s.layers[0] for s in stages) / layers, len(record.stages),
                       max(s.in_flight for s in stages)) for size, stages in sizes.items())


def one_device(cluster: Cluster) -> Place:
    """A single device that everything fits on."""
    mesh = logical_mesh(cluster, Submesh(1, 1), ())
    return Place((MeshSpace(mesh, (), ()),), 1.0, ENOUGH, 1)
