"""What a step of a rewritten program takes, by the intra-operator search: memory and seconds of all its layers on the
meshes that the stages of a plan have.

The plan says which submeshes stages are on, of which type of devices, and how much of the model each has. On every
logical mesh of such a submesh the distinct layers of the rewritten program are solved and composed to the whole model,
with as much memory as all its stages have together; of the meshes the best counts, and layers that were solved for
another program are not solved again (`known_layers.py`). That is the work of a step, with what it communicates; how it
falls into stages is for the search that follows.

In: the places of a plan, the program rewritten. Out: a `Price`.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from planner.core.graph import Graph, Program
from planner.core.hardware import Device
from planner.core.pins import Pins
from planner.core.spec import Spec
from planner.intraop.compose import slice_table
from planner.intraop.distinct import Slices, distinct_slices
from planner.intraop.fastest import fastest_fitting
from planner.intraop.setting import Setting
from planner.joint.known_layers import KnownLayers, Layered
from planner.joint.places import Place
from planner.joint.price import Price
from planner.joint.reduced import Reduced
from planner.layers import cluster_layers
from planner.mesh_tables import as_open_as_possible, memory_prices, no_price, setting_of
from planner.pinning import pinned_specs
from planner.prepared import Work
from planner.program_index import ProgramIndex, index_program
from planner.rules import graph_flops
from planner.spaces import MeshSpace

NEAR = 1.05
"""Meshes on which a program takes longer than on the best by more than this are left out. [chosen: as states are]"""

TINY = 1e-9
"""So small a part of a device's memory that nothing fits there. [chosen]"""


class UnlikeError(Exception):
    """The layers of a rewritten program do not repeat as those of the program that it was made of."""


@dataclass(frozen=True)
class Pricing:
    """Where and for whom programs are priced.

    Attributes:
      device: what programs are made ready for.
      work: what all programs' prices of memory go by: that of the program without rewrites.
      scale: what layers may add up to, as a part of the memory that may be used: other than 1 where plans were seen to
        take more, or less, than that.
    """

    device: Device
    pins: Pins
    places: tuple[Place, ...]
    work: Work
    scale: float = 1.0
    known: KnownLayers = field(default_factory=KnownLayers)

    def price(self, program: Program, whole: Reduced) -> Price:
        """Of a step of the model whose distinct layers a program has.

        Raises:
          UnlikeError: its layers are not those that `whole` knows how to repeat.
        """
        each = [min(prices) for prices in self._on_meshes(program, whole)]
        missing, usable = (sum(p.share * amount for p, amount in zip(self.places, amounts, strict=True))
                           for amounts in ([e.missing_bytes for e in each], [e.usable_bytes for e in each]))
        return Price(missing, self._of_step([e.seconds for e in each]), usable)

    def on_near_meshes(self, program: Program, whole: Reduced) -> "Pricing":
        """The same on the meshes alone that are nearly as good as the best for a program: rewrites mostly change the
        prices on all by as much. Raises as `price`."""
        places = [replace(place, meshes=tuple(
            mesh for mesh, price in zip(place.meshes, prices, strict=True) if price.is_within(NEAR, min(prices))))
            for place, prices in zip(self.places, self._on_meshes(program, whole), strict=True)]
        return replace(self, places=tuple(places))

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

    def _on_meshes(self, program: Program, whole: Reduced) -> list[list[Price]]:
        """Of each place, the price on every mesh. Raises as `price`."""
        index = index_program(program)
        layered = Layered(index, cluster_layers(index), self.device)
        classes = whole.expanded(layered.layers.classes)
        if classes is None:
            raise UnlikeError
        asked = _Asked(layered, self.known.kinds(layered, self._pinned(index)), distinct_slices(classes))
        return [[self._on(asked, mesh, place) for mesh in place.meshes] for place in self.places]

    def _pinned(self, index: ProgramIndex) -> list[dict[int, Spec]]:
        """Specs that are fixed, on each mesh."""
        if not self.pins.params and not self.pins.activations:
            return []
        return [pinned_specs(index, self.pins, m.names, m.mesh.shape) for place in self.places for m in place.meshes]

    def _on(self, asked: "_Asked", space: MeshSpace, place: Place) -> Price:
        def composed(open_dims: int) -> Price:
            setting = setting_of(asked.program.index, space, place.hardware, self.pins, open_dims)
            return self._composed(asked, setting, space, place)

        return as_open_as_possible(composed)

    def _composed(self, asked: "_Asked", setting: Setting, space: MeshSpace, place: Place) -> Price:
        slices, usable, count = asked.slices, place.device.usable_bytes, setting.microbatches
        whole = int(slices.at[0, len(slices.kinds) - 1])
        where = (self.places.index(place), space, setting.max_classes)
        least = Price(float("inf"), float("inf"), usable)
        for prices in (no_price(self.work, self.pins), memory_prices(
                self.work, place.hardware, space.mesh.device_count, self.pins, space.part)):
            solved = self.known.solved(asked.program, asked.kinds, where, setting, prices)
            table = slice_table(space.mesh, [solved[c] for c in slices.kinds], slices, prices,
                                microbatches=count, training=setting.training)
            seconds, _ = fastest_fitting(table, (place.in_flight,), usable * place.ranks * self.scale)
            if np.isfinite(seconds[0, whole]):
                return Price(0.0, float(seconds[0, whole]) * count, usable)
            own = table.useful.of(whole)
            held = own.memory_bytes(place.in_flight) / (place.ranks * self.scale)
            if len(held):
                at = int(held.argmin())
                least = min(least, Price(float(held[at]) - usable, float(own.step_s(count)[at]) * count, usable))
        return least


@dataclass(frozen=True)
class _Asked:
    """A program to be priced: what its distinct layers are, and which slices of all its layers are alike."""

    program: Layered
    kinds: tuple[Hashable, ...]
    slices: Slices
