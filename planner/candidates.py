"""One program (one microbatch count) on one cluster: price every slice on every mesh, build stages, price recipes.

In: `Prepared` program, meshes, pins. Out: `Candidate`s: chosen stages with their predicted step time and a lower bound.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from planner.assemble import StagePick
from planner.core.graph import Program, Role
from planner.core.hardware import Cluster
from planner.core.pins import Pins
from planner.costs.topology import stage_link
from planner.intraop.boundary import boundary
from planner.intraop.choices import LayerModel
from planner.intraop.compose import SliceTable, slice_table
from planner.intraop.frontier import LayerFrontier, layer_frontier
from planner.intraop.price import price_layer
from planner.intraop.setting import MAX_CLASSES, Setting
from planner.intraop.structure import layer_model
from planner.intraop.variants import Multipliers
from planner.layers import Layers, cluster_layers, crossing_bytes
from planner.pinning import pinned_specs
from planner.program_index import ProgramIndex, index_program
from planner.rules import graph_flops, main_dtype
from planner.solvers.eliminate_tables import WidthExceeded
from planner.spaces import MeshSpace, SubmeshSpace
from planner.stages import construct, place

Array = NDArray[np.float64]

MEMORY_MARGIN = 0.08
"""Share of device memory left free for fragmentation and the compiler's scratch. [chosen]"""

PRICE_SCALES = (0.01, 0.1, 0.6, 2.0, 5.0, 10.0, 20.0, 40.0, 100.0)
"""Prices of a byte, relative to the step's compute time per byte of capacity. [chosen: from negligible to
prohibitive]"""

MAX_STAGES = 64
"""Stages of a pipeline at most. [chosen: deeper pipelines spend their time in the bubble]"""


@dataclass(frozen=True)
class Prepared:
    """A program with its layers and the structure of each distinct layer."""

    index: ProgramIndex
    layers: Layers
    models: tuple[LayerModel, ...]  # per class
    crossing_bytes: tuple[float, ...]  # activations that enter each layer
    micro_flops: int
    dtype: str  # that most of them are computed in

    @property
    def program(self) -> Program:
        return self.index.program


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


def prepare(program: Program) -> Prepared:
    """Index a program, cut it into layers, and build the structure of each distinct layer."""
    index = index_program(program)
    layers = cluster_layers(index)
    models = tuple(layer_model(index, *layers.ranges[layers.representative(c)]) for c in range(max(layers.classes) + 1))
    crossing = crossing_bytes(index)
    return Prepared(index, layers, models, tuple(float(crossing[c]) for c in layers.cuts), graph_flops(program.micro),
                    main_dtype(program.micro))


def memory_prices(prepared: Prepared, hardware: Cluster, devices: int, pins: Pins) -> Multipliers:
    """The memory prices that layers on a mesh of `devices` are solved at, around the step's compute time per byte of
    capacity; saved bytes also as if as many microbatches were in flight as the first of equal stages holds."""
    program = prepared.program
    device = hardware.device
    step_s = program.microbatches * prepared.micro_flops / hardware.device_count / device.flops_per_s(prepared.dtype)
    base = max(step_s, 1e-6) / device.memory_bytes
    flights = sorted({1, min(hardware.device_count // devices, program.microbatches)}) \
        if program.kind == "train" else [1]
    free = no_price(prepared, pins)
    recompute = free.recompute
    rows = [(base * scale, k, r) for scale in PRICE_SCALES for k in flights for r in recompute]
    return Multipliers(free.per_byte_s + tuple(r[0] for r in rows), free.in_flight + tuple(r[1] for r in rows),
                       free.recompute + tuple(r[2] for r in rows))


def no_price(prepared: Prepared, pins: Pins) -> Multipliers:
    """Memory for nothing, with and without recomputation where both are open."""
    training = prepared.program.kind == "train"
    recompute = (False,) if not training else (False, True) if pins.recompute is None else (pins.recompute,)
    return Multipliers((0.0,) * len(recompute), (1,) * len(recompute), recompute)


def mesh_table(prepared: Prepared, space: MeshSpace, hardware: Cluster, pins: Pins) -> SliceTable:
    """Costs of all slices of layers on one logical mesh.

    A layer too entangled for exact elimination is solved again with fewer dimensions open to sharding; the table then
    is not `exact` and proves no bound. Where every slice fits at its fastest, no other memory price is tried.
    """
    for classes in (MAX_CLASSES, 4, 3, 2):
        try:
            fastest = _table(prepared, space, hardware, pins, classes, no_price(prepared, pins))
            if _all_fit(prepared, hardware, pins, fastest):
                return fastest
            return _table(prepared, space, hardware, pins, classes,
                          memory_prices(prepared, hardware, space.mesh.device_count, pins))
        except WidthExceeded as error:
            too_wide = error
    raise too_wide


def _all_fit(prepared: Prepared, hardware: Cluster, pins: Pins, fastest: SliceTable) -> bool:
    """Whether every slice, at its fastest, fits with as many microbatches in flight as any stage may hold."""
    microbatches = prepared.program.microbatches
    flight = microbatches if pins.schedule == "gpipe" else min(_stage_limit(prepared, hardware, pins), microbatches)
    need = fastest.memory_bytes(flight if prepared.program.kind == "train" else 1)[..., 0]
    return bool((need[np.isfinite(need)] <= _capacity_bytes(hardware)).all())


def _capacity_bytes(hardware: Cluster) -> float:
    return hardware.device.memory_bytes * (1 - MEMORY_MARGIN)


def _table(prepared: Prepared, space: MeshSpace, hardware: Cluster, pins: Pins, classes: int, prices: Multipliers
           ) -> SliceTable:
    program, index, layers = prepared.program, prepared.index, prepared.layers
    setting = Setting(space.mesh, hardware.device, space.uses, program.microbatches, program.kind == "train",
                      pinned_specs(index, pins, space.names, space.mesh.shape), program.kind != "inference", classes)
    frontiers: list[LayerFrontier] = []
    for c, model in enumerate(prepared.models):
        first, last = layers.ranges[layers.representative(c)]
        before = boundary(index, first, space.mesh.shape, space.uses, setting.pins)
        after = boundary(index, last, space.mesh.shape, space.uses, setting.pins)
        frontiers.append(layer_frontier(program.micro, price_layer(index, model, setting), before, after, prices))
    table = slice_table(program.micro, space.mesh, [frontiers[c] for c in layers.classes], prices,
                        training=setting.training)
    return replace(table, exact=classes == MAX_CLASSES)


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
    stages = _stage_limit(prepared, hardware, pins)
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
        table = tables[space]
        g = int(costs.variant[s, m, first, last])
        time_s = float(costs.times_s[s, m, first, last])
        gap = max(0.0, 1.0 - float(costs.floors_s[s, m, first, last]) / time_s) if time_s else 0.0
        picks.append(StagePick(table, space.names, first, last, g, devices[position], flights[s],
                               _hand_over_s(prepared, hardware, spaces[m], first, last), gap))
    return Outcome(_candidate(prepared, tuple(picks), choice.tried, choice.pruned), floor)


def _candidate(prepared: Prepared, picks: tuple[StagePick, ...], tried: int, pruned: int) -> Candidate:
    microbatches = prepared.program.microbatches
    per = [float(p.table.microbatch_s[p.first, p.last, p.variant]) + p.send_s for p in picks]
    batch = [float(p.table.batch_s[p.first, p.last, p.variant]) for p in picks]
    peak = max(float(p.table.memory_bytes(p.in_flight)[p.first, p.last, p.variant]) for p in picks)
    time_s = sum(per) + (microbatches - 1) * max(per) + max(batch)
    return Candidate(prepared, picks, time_s, peak, tried, pruned)


def _stage_limit(prepared: Prepared, hardware: Cluster, pins: Pins) -> int:
    if prepared.program.kind == "step":
        return 1
    if pins.stages is not None:
        return pins.stages
    return min(len(prepared.layers), hardware.device_count, MAX_STAGES)


def _slice_costs(prepared: Prepared, hardware: Cluster, spaces: Sequence[SubmeshSpace],
                 tables: dict[MeshSpace, SliceTable], flights: Sequence[int]) -> _Costs:
    """Per in-flight count and submesh, the fastest fitting variant of every slice, and a bound below all of them."""
    count, microbatches = len(prepared.layers), prepared.program.microbatches
    capacity = _capacity_bytes(hardware)
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


def forbidden_cuts(prepared: Prepared) -> frozenset[int]:
    """Layer boundaries that would put a reader of carried state in an earlier stage than the maker of its next
    value."""
    index, cuts = prepared.index, prepared.layers.cuts
    micro = index.program.micro
    inputs = {(i.path, i.row): i.value for i in micro.inputs_of(Role.STATE)}
    found: set[int] = set()
    for out in micro.outputs_of(Role.STATE):
        value = inputs.get((out.path, out.row))
        if value is None or not isinstance(out.operand, int) or out.operand not in index.maker:
            continue
        made, read = index.maker[out.operand], index.first_reader.get(value, len(micro.ops))
        found |= {n for n, cut in enumerate(cuts) if read < cut <= made}
    return frozenset(found)
