"""What every slice of layers costs as a stage on every submesh, and how it is made sharper where that matters.

In: the `SliceTable`s of all meshes. Out: `SliceCosts`: per microbatches in flight, submesh and slice the time of the
fastest variant that fits, and a bound below everything that fits. A table's variants leave a gap between the two where
memory binds; `sharpen` closes most of it for one slice (`intraop/refine.py`), which is too slow to do for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from planner.core.hardware import Cluster
from planner.costs.handing import HandOvers, handed_between, handed_s
from planner.costs.transfer import cut_transfer_s
from planner.intraop.compose import SliceTable
from planner.intraop.distinct import Slices
from planner.intraop.fastest import fastest_fitting
from planner.intraop.refine import TOLERANCE, Approach, Stage, approach, finish
from planner.intraop.slice_choice import SliceChoice, table_choice
from planner.prepared import Prepared
from planner.spaces import MeshSpace, SubmeshSpace

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

Entry = tuple[int, int, int, int]
"""Index of the microbatches in flight, submesh, first layer, last layer."""

Key = tuple[int, int, int]
"""Index of the microbatches in flight, submesh, number of the slice: equal for slices that are alike."""


@dataclass(frozen=True)
class Known:
    """What was found out about an entry that was made sharper: the mesh its time comes from, how good a choice there
    is, and what the solver did, if it looked at it."""

    space: MeshSpace
    approach: Approach
    solver: str = "elimination"


@dataclass(frozen=True)
class SliceCosts:
    """Arrays over `Key`: seconds per microbatch (what a stage does once per batch spread over them), a bound below, and
    the mesh and variant that the time comes from. With handing over, which depends on where a slice begins, they are
    those of an `Entry`.

    Attributes:
      flights: microbatches in flight, per index.
      sends: of the submeshes, see `hand_overs`.
      known: those that were made sharper; None where the variant stayed the best.
    """

    prepared: Prepared
    hardware: Cluster
    spaces: tuple[SubmeshSpace, ...]
    tables: dict[MeshSpace, SliceTable]
    flights: tuple[int, ...]
    sends: HandOvers
    times_s: Array
    floors_s: Array
    mesh: NDArray[np.int32]
    variant: NDArray[np.int32]
    known: dict[Key, Known | None] = field(default_factory=dict[Key, Known | None])

    @property
    def slices(self) -> Slices:
        """Which slices are alike."""
        return self.prepared.slices

    def key(self, entry: Entry) -> Key:
        """Where an entry is in the arrays."""
        index, m, first, last = entry
        return index, m, int(self.slices.at[first, last])

    def time_s(self, entry: Entry) -> float:
        """Seconds per microbatch, handing over included."""
        return float(self.times_s[self.key(entry)]) + self.hand_over_s(entry)

    def floor_s(self, entry: Entry) -> float:
        """The bound below `time_s`."""
        return float(self.floors_s[self.key(entry)]) + self.hand_over_s(entry)

    def gap(self, entry: Entry) -> float:
        """By what part of its time an entry may be above its bound."""
        time_s = self.time_s(entry)
        return max(0.0, 1.0 - self.floor_s(entry) / time_s) if time_s else 0.0

    def between_s(self, index: int, m: int, firsts: Ints, lasts: Ints) -> Array:
        """`time_s` of all slices that begin and end at some layers, [first, last]; infinite where there is none."""
        return self.slices.spread(self.times_s[index, m], firsts, lasts) + handed_between(self.sends, m, firsts, lasts)

    def space(self, entry: Entry) -> MeshSpace:
        """The mesh that an entry's time comes from."""
        key = self.key(entry)
        found = self.known.get(key)
        return found.space if found else self.spaces[entry[1]].meshes[int(self.mesh[key])]

    def choice(self, entry: Entry) -> SliceChoice:
        """The choice that an entry's time comes from."""
        found = self.known.get(self.key(entry))
        if found and found.approach.choice is not None:
            return found.approach.choice.moved_to(entry[2])
        return table_choice(self.tables[self.space(entry)], entry[2], entry[3], int(self.variant[self.key(entry)]))

    def solver(self, entry: Entry) -> str:
        """What chose an entry's choice, in words."""
        found = self.known.get(self.key(entry))
        return found.solver if found else "elimination"

    def usable_bytes(self, m: int) -> float:
        """Of the devices that a submesh is of."""
        return self.hardware.kinds[self.spaces[m].part].device.usable_bytes

    def hand_over_s(self, entry: Entry) -> float:
        """See `hand_overs`."""
        return float(handed_s(self.sends, *entry[1:]))


def slice_costs(prepared: Prepared, hardware: Cluster, spaces: Sequence[SubmeshSpace],
                tables: dict[MeshSpace, SliceTable], flights: Sequence[int]) -> SliceCosts:
    """Per in-flight count and submesh, the fastest fitting variant of every slice, and a bound below all of them."""
    microbatches = prepared.program.microbatches
    distinct = tuple(sorted(set(flights)))
    shape = (len(distinct), len(spaces), len(prepared.slices))
    times, floors = np.full(shape, np.inf), np.full(shape, np.inf)
    where, variant = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.int32)
    sends = hand_overs(prepared, hardware, spaces)
    for m, space in enumerate(spaces):
        capacity = hardware.kinds[space.part].device.usable_bytes
        for t, mesh in enumerate(space.meshes):
            table = tables[mesh]
            value, g = fastest_fitting(table, distinct, capacity)
            better = value < times[:, m]
            times[:, m][better], where[:, m][better], variant[:, m][better] = value[better], t, g[better]
            bounds: dict[int, Array] = {}  # by the most in flight of what bounds, which few counts differ in
            for s, flight in enumerate(distinct):
                most = max(k for k in table.variants.in_flight if k <= flight)
                if most not in bounds:
                    bounds[most] = _floor(table, flight, capacity, microbatches, slice(None))
                floors[s, m] = np.minimum(floors[s, m], bounds[most])
    return SliceCosts(prepared, hardware, tuple(spaces), tables, distinct, sends, times,
                      np.minimum(floors, times), where, variant)


def forward_sums_s(costs: SliceCosts) -> Array:
    """What the operators and tensors of all layers before one take at least in a forward, each by itself, [submesh,
    mesh, layer + 1]. 0 where strategies were left out. A submesh of fewer meshes than another has its first again."""
    count, most = len(costs.prepared.layers), max((len(s.meshes) for s in costs.spaces), default=0)
    found = np.zeros((len(costs.spaces), most, count + 1))
    for m, space in enumerate(costs.spaces):
        for t in range(most):
            table = costs.tables[space.meshes[t if t < len(space.meshes) else 0]]
            if table.exact:
                found[m, t, 1:] = np.cumsum(table.least_forward_s)
    return found


def sharpen(costs: SliceCosts, entry: Entry) -> None:
    """Bound a slice more tightly and look for a faster choice, on all meshes of the submesh that may have one."""
    index, m, first, last = entry
    program, flight = costs.prepared.program, costs.flights[index]
    capacity, send, key = costs.usable_bytes(m), costs.hand_over_s(entry), costs.key(entry)
    costs.known[key] = None
    one = slice(key[2], key[2] + 1)
    floors = {space: float(_floor(table, flight, capacity, program.microbatches, one)[0])
              for space, table in ((space, costs.tables[space]) for space in costs.spaces[m].meshes)}
    for space in sorted(floors, key=lambda s: floors[s]):  # what is found on one may leave the next no chance
        if floors[space] + send < costs.time_s(entry) * (1 - TOLERANCE):
            stage = Stage(program.micro, costs.tables[space], first, last, flight, program.microbatches, capacity)
            found = approach(stage, _fastest(stage), float(costs.times_s[key]) * program.microbatches)
            floors[space] = max(floors[space], found.bound_s / program.microbatches)
            _learn(costs, entry, Known(space, found))
    costs.floors_s[key] = min(costs.times_s[key], *floors.values())


def finish_stage(costs: SliceCosts, entry: Entry) -> None:
    """Have the solver look for a faster choice where an entry that was made sharper is still open."""
    found = costs.known.get(costs.key(entry))
    if not found:
        return
    better, did = finish(found.approach)
    if did:
        _learn(costs, entry, replace(found, approach=better, solver=f"elimination, then {did}"))


def _learn(costs: SliceCosts, entry: Entry, found: Known) -> None:
    """Take over what was found if it is no slower (as good is of use: it may get better)."""
    time_s, key = found.approach.step_s / costs.prepared.program.microbatches, costs.key(entry)
    if found.approach.choice is not None and time_s <= costs.times_s[key] * (1 + 1e-12):
        costs.times_s[key], costs.known[key] = time_s, found


def _fastest(stage: Stage) -> SliceChoice | None:
    """The fastest variant of a table that fits."""
    table, first, last = stage.table, stage.first, stage.last
    own = table.useful.of(table.of(first, last))
    at = own.fitting(stage.in_flight, stage.limit_bytes)
    return None if at is None else table_choice(table, first, last, int(own.variant[at]))


def _floor(table: SliceTable, flight: int, capacity: float, microbatches: int, at: slice) -> Array:
    """Lagrangian bound of distinct slices by number: the best over prices λ of (priced optimum - λ · room), recomputing
    each layer or not as is cheapest. Room for what is kept is what the layer leaves that works with most."""
    if not table.exact:
        return np.zeros(len(table.slices))[at]
    variants = table.variants
    below = variants.bounding(flight)
    prices = np.array(variants.per_byte_s)[below]
    room = capacity - table.working_at_least[at]
    found = np.max(table.bound(below, at) - prices * room[:, None], axis=1)
    return np.maximum(np.where(room < 0, np.inf, found), 0.0) / microbatches


def hand_overs(prepared: Prepared, hardware: Cluster, spaces: Sequence[SubmeshSpace]) -> HandOvers:
    """What a stage of a pipeline pays on top, per microbatch: receiving the activations that enter it and sending their
    cotangents back, and the calls of its forward and backward programs."""
    ways, count = 2 if prepared.program.kind == "train" else 1, len(prepared.layers)
    parts = [hardware.kinds[space.part] for space in spaces]
    entering = [[0.0, *(ways * cut_transfer_s(prepared.crossing_bytes[first], space.submesh.device_count, part)
                        for first in range(1, count))] for space, part in zip(spaces, parts, strict=True)]
    # one thread makes the calls of all stages, and takes its core from the devices of all
    busy = [hardware.device_count / space.submesh.device_count if part.device.alone > 1 else 1.0
            for space, part in zip(spaces, parts, strict=True)]
    return HandOvers(np.array([ways * part.device.dispatch_s for part in parts]),
                     np.array([part.device.result_s for part in parts]), np.array(busy),
                     np.concatenate([[0.0], np.cumsum(prepared.results)]), np.array(entering).reshape(-1, count))
