"""One program (one microbatch count) on one cluster: price every slice on every mesh, build stages, price recipes.

Stages are built from the costs of slices, which memory leaves uncertain where it binds: between the fastest variant
that fits and a bound. Where that could change the answer, slices are made sharper and stages built again; the stages
chosen at last go to the solver.

In: `Prepared` program, meshes, pins. Out: `Candidate`s: chosen stages with their predicted step time and a lower bound.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from planner.assemble import StagePick
from planner.core.hardware import Cluster
from planner.core.pins import Pins
from planner.intraop.compose import SliceTable
from planner.intraop.refine import TOLERANCE
from planner.intraop.shared_params import StageShare, with_shared_params
from planner.mesh_tables import stage_limit
from planner.prepared import Prepared, forbidden_cuts
from planner.slice_costs import Entry, SliceCosts, finish_stage, sharpen, slice_costs
from planner.spaces import MeshSpace, SubmeshSpace
from planner.stages import Sharing, StageChoice, construct, pipeline_time_s, place

Array = NDArray[np.float64]

AT_ONCE = 8
"""Slices made sharper before stages are built again (seconds, with 64 devices). [chosen]"""

SHARPENED = 16
"""Slices of a program that are made sharper at most. [chosen: a few seconds of work]"""


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
class Builder:
    """Builds stages out of slices that are allowed ([first, last]), `exact` of them if that is given. `places` gives
    the index of its microbatches in flight per stage, from the last."""

    costs: SliceCosts
    places: tuple[int, ...]
    allowed: NDArray[np.bool_]
    exact: int | None

    @property
    def microbatches(self) -> int:
        return self.costs.prepared.program.microbatches

    @property
    def sizes(self) -> NDArray[np.int64]:
        return np.array([s.submesh.device_count for s in self.costs.spaces], dtype=np.int64)

    def build(self, seconds: Array) -> StageChoice | None:
        """The best stages at those costs (`costs.times_s` or `costs.floors_s`)."""
        return construct(np.where(self.allowed, seconds, np.inf)[list(self.places)], self.sizes,
                         self.costs.hardware.device_count, self.microbatches, exact_stages=self.exact,
                         alone=self.costs.hardware.device.alone)

    def sharing(self, choice: StageChoice) -> Sharing | None:
        """The cores that the stages share; None where every device has its own."""
        cluster = self.costs.hardware
        parts = [float(self.sizes[m]) / cluster.device_count for _, _, m in choice.stages]
        return Sharing(parts, cluster.device_count, cluster.device.alone) if cluster.device.alone > 1 else None

    def entries(self, choice: StageChoice) -> tuple[Entry, ...]:
        """Where the costs of the stages stand."""
        count = len(choice.stages)
        return tuple((self.places[count - 1 - n], m, first, last) for n, (first, last, m) in enumerate(choice.stages))


@dataclass(frozen=True)
class Outcome:
    """The best candidate found (None if nothing fits), a bound below every plan that was searched (infinite if nothing
    provably fits), what built it, the stages chosen and those that the bound comes from."""

    candidate: Candidate | None
    lower_bound_s: float
    builder: Builder
    choice: StageChoice | None
    below: StageChoice | None


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
    flights = [1 if program.kind != "train" else microbatches if in_flight_all and s else min(s + 1, microbatches)
               for s in range(stage_limit(prepared, hardware, pins))]
    costs = slice_costs(prepared, hardware, spaces, tables, flights)
    exact = pins.stages if pins.stages is not None else len(pins.boundaries) + 1 if pins.boundaries else None
    builder = Builder(costs, tuple(costs.flights.index(f) for f in flights), _allowed(prepared, pins), exact)
    choice = builder.build(costs.times_s)
    below = builder.build(costs.floors_s) if prove else None
    floor = 0.0 if not prove else below.lower_bound_s if below else float("inf")
    return Outcome(_candidate(builder, choice) if choice else None, floor, builder, choice, below)


def refined(outcome: Outcome, to_beat_s: float) -> Outcome:
    """Make those slices sharper that the best stages or their bound hang on and build again, a few times; then have the
    solver look at the stages chosen. It ends where no plan can be faster than `to_beat_s`. What it learns stays in the
    outcome's costs: refine an outcome once."""
    builder, costs = outcome.builder, outcome.builder.costs
    floor, choice, below = outcome.lower_bound_s, outcome.choice, outcome.below
    while choice is not None and below is not None and floor < to_beat_s and len(costs.known) < SHARPENED:
        entries = _worth_a_look(builder, choice, below)
        if not entries:
            break
        for entry in entries:
            sharpen(costs, entry)
        choice, below = builder.build(costs.times_s), builder.build(costs.floors_s)
        floor = max(floor, below.lower_bound_s) if below else floor
    if choice is None or not costs.known:
        return outcome
    _finish(builder, choice, to_beat_s)
    better = _candidate(builder, choice)
    if outcome.candidate is not None and outcome.candidate.step_time_s <= better.step_time_s:
        return replace(outcome, lower_bound_s=floor)
    return Outcome(better, floor, builder, choice, below)


def _worth_a_look(builder: Builder, choice: StageChoice, below: StageChoice) -> list[Entry]:
    """Slices whose time could fall, or whose bound could rise, so that the whole changes by more than the tolerance;
    those that could most come first."""
    costs, more = builder.costs, builder.microbatches - 1
    could: dict[Entry, float] = {}
    for entries in (builder.entries(choice), builder.entries(below)):
        slowest = max(float(costs.floors_s[e]) for e in entries)
        for e in entries:
            change = _change(float(costs.floors_s[e]), float(costs.times_s[e]), slowest, more)
            could[e] = max(could.get(e, 0.0), change)
    least = TOLERANCE * below.lower_bound_s
    ranked = sorted((e for e in could if e not in costs.known and could[e] > least), key=lambda e: (-could[e], e))
    return ranked[:AT_ONCE]


def _change(low: float, high: float, slowest: float, more: int) -> float:
    """Seconds of a step between a stage at `low` and at `high`, beside stages of which one is `slowest`."""
    if high == np.inf:
        return high
    return high - low + more * max(0.0, high - max(low, slowest))


def _finish(builder: Builder, choice: StageChoice, to_beat_s: float) -> None:
    """Have the solver look at the stages that the step time hangs on, the slowest first."""
    costs, microbatches = builder.costs, builder.microbatches
    entries = builder.entries(choice)
    sharing = builder.sharing(choice)
    if pipeline_time_s([float(costs.floors_s[e]) for e in entries], microbatches, sharing) >= to_beat_s:
        return
    for entry in sorted(entries, key=lambda e: (-costs.times_s[e], e)):
        rest = [float(costs.floors_s[e]) for e in entries]
        now = pipeline_time_s([float(costs.times_s[e]) for e in entries], microbatches, sharing)
        if _change(float(costs.floors_s[entry]), float(costs.times_s[entry]), max(rest), microbatches - 1) \
                > TOLERANCE * now:
            finish_stage(costs, entry)


def _candidate(builder: Builder, choice: StageChoice) -> Candidate:
    costs, microbatches = builder.costs, builder.microbatches
    devices = place([int(builder.sizes[m]) for _, _, m in choice.stages])
    picks: list[StagePick] = []
    entries, prepared = builder.entries(choice), costs.prepared
    settled = with_shared_params(prepared.index, prepared.layers,
                                 [StageShare(costs.choice(e), costs.flights[e[0]]) for e in entries],
                                 costs.hardware.device.usable_bytes)
    for position, entry in enumerate(entries):
        space, time_s = costs.space(entry), float(costs.times_s[entry])
        gap = max(0.0, 1.0 - float(costs.floors_s[entry]) / time_s) if time_s else 0.0
        picks.append(StagePick(space.mesh, space.names, settled[position], devices[position],
                               costs.flights[entry[0]], costs.hand_over_s(entry), gap, costs.solver(entry)))
    per, once = [p.choice.microbatch_s + p.send_s for p in picks], [p.choice.batch_s for p in picks]
    time_s = pipeline_time_s(per, microbatches) + max(once)
    if (sharing := builder.sharing(choice)) is not None:
        work = sum((microbatches * t + o) * part for t, o, part in zip(per, once, sharing.parts, strict=True))
        time_s = sharing.time_s(time_s, work)
    peak = max(p.choice.memory_bytes(p.in_flight) for p in picks)
    return Candidate(costs.prepared, tuple(picks), time_s, peak, choice.tried, choice.pruned)


def _allowed(prepared: Prepared, pins: Pins) -> NDArray[np.bool_]:
    """Slices that neither pins nor state threading rule out, [first, last]."""
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
    return allowed
