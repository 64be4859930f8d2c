"""One program (one microbatch count) on one cluster: price every slice on every mesh, build stages, price recipes.

In: `Prepared` program, meshes, pins. Out: `Candidate`s: chosen stages with their predicted step time and a lower bound.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.assemble import StagePick
from planner.core.hardware import Cluster
from planner.core.pins import Pins
from planner.costs.topology import stage_link
from planner.intraop.compose import SliceTable
from planner.intraop.slice_choice import table_choice
from planner.mesh_tables import capacity_bytes, stage_limit
from planner.prepared import Prepared, forbidden_cuts
from planner.spaces import MeshSpace, SubmeshSpace
from planner.stages import construct, place

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Candidate:
    """Chosen stages, predicted seconds of a step, peak bytes per device."""

    prepared: Prepared
    stages: tuple[StagePick, ...]
    step_time_s: float
    peak_bytes: float
    tried: int
    pruned: int


@dataclass(frozen=True)
class Outcome:
    """The best candidate found (None if nothing fits), and a bound below every plan that was searched (infinite if
    nothing provably fits)."""

    candidate: Candidate | None
    lower_bound_s: float


@dataclass(frozen=True)
class _Costs:
    """Arrays over [in-flight index, submesh, first layer, last layer]: time, its lower bound, and where it came
    from."""

    times_s: Array
    floors_s: Array
    table: NDArray[np.int32]
    variant: NDArray[np.int32]


def best_pipeline(prepared: Prepared, hardware: Cluster, spaces: Sequence[SubmeshSpace],
                  tables: dict[MeshSpace, SliceTable], pins: Pins, *, in_flight_all: bool = False,
                  prove: bool = True) -> Outcome:
    """Stage construction over the given submeshes. `in_flight_all`: every stage holds all microbatches (GPipe);
    `prove`: find the bound as well (which takes as long again), 0 otherwise.

    The bound is exact for one stage; over several it is for the objective that spreads a stage's once-per-batch work
    (gradient sync, update) over its microbatches.
    """
    program = prepared.program
    microbatches = program.microbatches
    stages = stage_limit(prepared, hardware, pins)
    flights = [1 if program.kind != "train" else microbatches if in_flight_all and s else min(s + 1, microbatches)
               for s in range(stages)]
    costs = _slice_costs(prepared, hardware, spaces, tables, flights)
    masked = _mask(prepared, costs.times_s, pins)
    sizes = np.array([s.submesh.device_count for s in spaces], dtype=np.int64)
    exact = pins.stages if pins.stages is not None else len(pins.boundaries) + 1 if pins.boundaries else None
    choice = construct(masked, sizes, hardware.device_count, microbatches, exact_stages=exact)
    floor = 0.0
    if prove:
        below = construct(_mask(prepared, costs.floors_s, pins), sizes, hardware.device_count, microbatches,
                          exact_stages=exact)
        floor = below.lower_bound_s if below else float("inf")
    if choice is None:
        return Outcome(None, floor)
    count = len(choice.stages)
    devices = place([int(sizes[m]) for _, _, m in choice.stages])
    picks: list[StagePick] = []
    for position, (first, last, m) in enumerate(choice.stages):
        s = count - 1 - position
        space = spaces[m].meshes[int(costs.table[s, m, first, last])]
        chosen = table_choice(tables[space], first, last, int(costs.variant[s, m, first, last]))
        time_s = float(costs.times_s[s, m, first, last])
        gap = max(0.0, 1.0 - float(costs.floors_s[s, m, first, last]) / time_s) if time_s else 0.0
        picks.append(StagePick(space.mesh, space.names, chosen, devices[position], flights[s],
                               _hand_over_s(prepared, hardware, spaces[m], first, last), gap))
    return Outcome(_candidate(prepared, tuple(picks), choice.tried, choice.pruned), floor)


def _candidate(prepared: Prepared, picks: tuple[StagePick, ...], tried: int, pruned: int) -> Candidate:
    microbatches = prepared.program.microbatches
    per = [p.choice.microbatch_s + p.send_s for p in picks]
    peak = max(p.choice.memory_bytes(p.in_flight) for p in picks)
    time_s = sum(per) + (microbatches - 1) * max(per) + max(p.choice.batch_s for p in picks)
    return Candidate(prepared, picks, time_s, peak, tried, pruned)


def _slice_costs(prepared: Prepared, hardware: Cluster, spaces: Sequence[SubmeshSpace],
                 tables: dict[MeshSpace, SliceTable], flights: Sequence[int]) -> _Costs:
    """Per in-flight count and submesh, the fastest fitting variant of every slice, and a bound below all of them."""
    count, microbatches = len(prepared.layers), prepared.program.microbatches
    capacity = capacity_bytes(hardware)
    distinct = sorted(set(flights))
    shape = (len(distinct), len(spaces), count, count)
    times, floors = np.full(shape, np.inf), np.full(shape, np.inf)
    where, variant = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.int32)
    for m, space in enumerate(spaces):
        send = np.array([[_hand_over_s(prepared, hardware, space, k, j) for j in range(count)] for k in range(count)])
        for t, mesh in enumerate(space.meshes):
            table = tables[mesh]
            step = table.microbatch_s + table.batch_s / microbatches
            for s, flight in enumerate(distinct):
                fits = np.where(table.memory_bytes(flight) <= capacity, step, np.inf)
                g = np.argmin(fits, axis=2)
                value = np.take_along_axis(fits, g[:, :, None], axis=2)[:, :, 0] + send
                better = value < times[s, m]
                times[s, m][better], where[s, m][better], variant[s, m][better] = value[better], t, g[better]
                floors[s, m] = np.minimum(floors[s, m], _floor(table, flight, capacity, microbatches) + send)
    stage = [distinct.index(flight) for flight in flights]
    return _Costs(times[stage], np.minimum(floors, times)[stage], where[stage], variant[stage])


def _floor(table: SliceTable, flight: int, capacity: float, microbatches: int) -> Array:
    """Lagrangian bound per slice: the best over prices λ of (priced optimum - λ · capacity), recomputing each layer or
    not as is cheapest."""
    if not table.exact:
        return np.zeros(table.priced.shape[:2])
    variants = table.variants
    bounds = [table.priced[:, :, g] - variants.per_byte_s[g] * capacity for g in variants.bounding(flight)]
    return np.maximum(np.max(bounds, axis=0), 0.0) / microbatches


def _hand_over_s(prepared: Prepared, hardware: Cluster, space: SubmeshSpace, first: int, last: int) -> float:
    """What a stage of layers [first, last] of a pipeline pays on top, per microbatch: receiving the activations that
    enter it and sending their cotangents back, and the calls of its forward and backward programs."""
    if (first, last) == (0, len(prepared.layers) - 1):
        return 0.0
    ways = 2 if prepared.program.kind == "train" else 1
    calls = ways * hardware.device.dispatch_s
    if first == 0:
        return calls
    size = prepared.crossing_bytes[first]
    whole_nodes = space.submesh.device_count >= hardware.devices_per_node
    link = stage_link(hardware, same_node=not whole_nodes)
    return calls + ways * (link.latency_s + size / space.submesh.device_count / link.bandwidth_bytes_per_s)


def _mask(prepared: Prepared, times_s: Array, pins: Pins) -> Array:
    """Forbid slices that pins or state threading rule out."""
    count = len(prepared.layers)
    allowed = np.ones((count, count), dtype=bool)
    for cut in forbidden_cuts(prepared):
        allowed[cut, :] = False
        allowed[:, cut - 1] = False
    if pins.boundaries is not None:
        starts = {0, *pins.boundaries}
        ends = {b - 1 for b in (*pins.boundaries, count)}
        for k in range(count):
            for j in range(count):
                inner = any(k < b <= j for b in pins.boundaries)
                allowed[k, j] &= k in starts and j in ends and not inner
    return np.where(allowed[None, None], times_s, np.inf)
