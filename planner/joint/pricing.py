"""What a step of a rewritten program takes, by the intra-operator search: memory and seconds of all its layers on the
meshes that the stages of a plan have.

The plan says which submeshes stages are on, of which type of devices, and how much of the model each has. On every
logical mesh of such a submesh the distinct layers of the rewritten program are solved and composed to the whole model,
with as much memory as all its stages have together; of the meshes the best counts. That is the work of a step, with
what it communicates; how it falls into stages is for the search that follows.

In: the places of a plan, the program rewritten. Out: a `Price`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from planner.core.graph import Graph, Program
from planner.core.hardware import Device
from planner.core.pins import Pins
from planner.intraop.compose import slice_table
from planner.intraop.distinct import distinct_slices
from planner.intraop.fastest import fastest_fitting
from planner.joint.places import Place
from planner.joint.price import Price
from planner.joint.reduced import Reduced
from planner.mesh_tables import PricedClass, as_open_as_possible, memory_prices, no_price, priced_layers, solved_layers
from planner.prepared import Prepared, prepare
from planner.rules import graph_flops
from planner.spaces import MeshSpace

TINY = 1e-9
"""So small a part of a device's memory that nothing fits there. [chosen]"""


class UnlikeError(Exception):
    """The layers of a rewritten program do not repeat as those of the program that it was made of."""


@dataclass(frozen=True)
class Pricing:
    """Where and for whom programs are priced.

    Attributes:
      device: what programs are made ready for.
      scale: what layers may add up to, as a part of the memory that may be used: other than 1 where plans were seen to
        take more, or less, than that.
    """

    device: Device
    pins: Pins
    places: tuple[Place, ...]
    scale: float = 1.0

    def price(self, program: Program, whole: Reduced) -> Price:
        """Of a step of the model whose distinct layers a program has.

        Raises:
          UnlikeError: its layers are not those that `whole` knows how to repeat.
        """
        prepared = prepare(program, self.device)
        classes = whole.expanded(prepared.layers.classes)
        if classes is None:
            raise UnlikeError
        each = [min(self._on(prepared, classes, mesh, p) for mesh in p.meshes) for p in self.places]
        missing, usable = (sum(p.share * amount for p, amount in zip(self.places, amounts, strict=True))
                           for amounts in ([e.missing_bytes for e in each], [e.usable_bytes for e in each]))
        return Price(missing, self._of_step([e.seconds for e in each]), usable)

    def where_it_lacks(self, fullness: float, program: Program, whole: Reduced) -> "Pricing":
        """The same with as much memory that a program needs `fullness` of it at least. Raises as `price`."""
        least = replace(self, scale=TINY).price(program, whole).fullness * TINY
        return replace(self, scale=least / fullness)

    def floor_s(self, forward: Graph, microbatches: int) -> float:
        """Below the seconds of every program with that forward graph: what its arithmetic takes at the peak rates."""
        flops = graph_flops(forward) * microbatches
        return self._of_step([flops / max(rate for _, rate in p.device.peak_flops_per_s) /
                              p.meshes[0].mesh.device_count for p in self.places])

    def _of_step(self, seconds: Sequence[float]) -> float:
        """Seconds of a step, from those that all its work would take on each place."""
        by_replica: dict[int, float] = {}
        for place, whole_s in zip(self.places, seconds, strict=True):
            by_replica[place.replica] = by_replica.get(place.replica, 0.0) + place.share * whole_s
        return max(by_replica.values())

    def _on(self, prepared: Prepared, classes: Sequence[int], space: MeshSpace, place: Place) -> Price:
        def composed(open_dims: int) -> Price:
            layers = priced_layers(prepared, space, place.hardware, self.pins, open_dims)
            return self._composed(prepared, layers, classes, space, place)

        return as_open_as_possible(composed)

    def _composed(self, prepared: Prepared, layers: Sequence[PricedClass], classes: Sequence[int], space: MeshSpace,
                  place: Place) -> Price:
        slices, usable = distinct_slices(classes), place.device.usable_bytes
        whole, count = int(slices.at[0, len(classes) - 1]), prepared.program.microbatches
        least = Price(float("inf"), float("inf"), usable)
        for prices in (no_price(prepared, self.pins), memory_prices(
                prepared, place.hardware, space.mesh.device_count, self.pins, space.part)):
            solved = solved_layers(prepared, layers, prices)
            table = slice_table(prepared.program.micro, space.mesh, [solved[c] for c in classes], slices, prices,
                                microbatches=count, training=prepared.program.kind == "train")
            seconds, _ = fastest_fitting(table, (place.in_flight,), usable * place.ranks * self.scale)
            if np.isfinite(seconds[0, whole]):
                return Price(0.0, float(seconds[0, whole]) * count, usable)
            own = table.useful.of(whole)
            held = own.memory_bytes(place.in_flight) / (place.ranks * self.scale)
            if len(held):
                at = int(held.argmin())
                least = min(least, Price(float(held[at]) - usable, float(own.step_s(count)[at]) * count, usable))
        return least
