"""One program (one microbatch count) on one cluster: price every slice on every mesh, build stages, run them under the
schedules that may be used.

Stages are built from the costs of slices, which memory leaves uncertain where it binds: between the fastest variant
that fits and a bound. Where that could change the answer, slices are made sharper and stages built again; the stages
chosen at last go to the solver. Here a stage is all that its devices do (`pipelines/virtual_stages.py` gives them
several); stages are built for 1F1B, or as it asks for, and run under every schedule that keeps to one stage per rank.

In: `Prepared` program, meshes, pins. Out: `Candidate`s: chosen stages with their predicted step time and a lower bound.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from planner.core.hardware import Cluster, Device
from planner.core.layout import Placement, placed
from planner.core.pins import Pins
from planner.intraop.compose import SliceTable
from planner.intraop.refine import TOLERANCE
from planner.mesh_tables import stage_limit
from planner.pipelines.bound import Floors, forward_between_s, least_step, least_work
from planner.pipelines.deep import (
    as_layers,
    cell_ends,
    coarse_to_fine,
    forward_of_cells,
    least_slowest_s,
    of_cells,
    spacing,
)
from planner.pipelines.lines import Columns, Line, columns
from planner.pipelines.pipeline import WORTH, Candidate, Chosen, Stages, under
from planner.pipelines.slicings import Times
from planner.pipelines.stages import StageChoice, construct
from planner.prepared import Prepared, forbidden_cuts
from planner.schedules import SCHEDULES
from planner.slice_costs import Entry, SliceCosts, finish_stage, forward_sums_s, sharpen, slice_costs
from planner.spaces import MeshSpace, SubmeshSpace

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

AT_ONCE = 8
"""Slices made sharper before stages are built again (seconds, with 64 devices). [chosen]"""

SHARPENED = 16
"""Slices of a program that are made sharper at most. [chosen: a few seconds of work]"""

BUBBLE = 1 / 3
"""The bubble of zero-bubble schedules beside that of 1F1B where all three parts take equally long: what stages are
built for. (Qi et al., arXiv:2401.10241, section 2.1)"""


@dataclass(frozen=True)
class Builder:
    """Builds stages out of slices that are allowed ([first, last]), `exact` of them if that is given, and runs them
    under schedules. `columns` are what they may be put on; `places` gives the index of its microbatches in flight per
    stage, from the last; `bubble` what share of the bubble of 1F1B stages are built for."""

    costs: SliceCosts
    columns: Columns
    schedules: tuple[str, ...]
    places: tuple[int, ...]
    allowed: NDArray[np.bool_]
    exact: int | None
    bubble: float = 1.0

    @property
    def microbatches(self) -> int:
        return self.costs.prepared.program.microbatches

    @cached_property
    def starts(self) -> Ints:
        """Layers that stages may begin at; those of very deep models all of them."""
        count = len(self.allowed)
        return np.union1d([0], np.flatnonzero(self.allowed.any(axis=1))) if self.every == 1 else np.arange(count)

    @cached_property
    def every(self) -> int:
        """Layers that stages of very deep models have at least (`pipelines/deep.py`)."""
        return spacing(self.allowed)

    def build(self, bubble: float | None = None) -> StageChoice | None:
        """The best stages, for that share of the bubble of 1F1B."""
        many = round(self.microbatches / (self.bubble if bubble is None else bubble))
        on = self.columns
        return on.named(coarse_to_fine(
            lambda starts: self._times(self.costs.times_s, starts), self.starts, len(self.allowed), self.every,
            lambda times: construct(times, on.sizes, on.devices, many, exact_stages=self.exact,
                                    alone=self.costs.hardware.device.alone, spans=on.spans)))

    def bound(self, upto_s: float) -> StageChoice | None:
        """The stages that a bound of all schedules comes from, or one above `upto_s`."""
        on, alone, count = self.columns, self.costs.hardware.device.alone, len(self.allowed)
        layers = self._times(self.costs.floors_s, self.starts)
        forward_s = forward_sums_s(self.costs)[on.space]
        if self.every > 1:
            times, through_s = of_cells(layers, self.every), forward_of_cells(forward_s, layers.at, self.every)
        else:
            times, through_s = layers, forward_between_s(forward_s, self.starts)
        floors = Floors(times, through_s, on.sizes, on.devices, self.microbatches, self.exact, on.spans)
        found = least_work(floors) if alone > 1 else least_step(floors, upto_s=upto_s)
        if found is not None and self.every > 1 and alone <= 1:
            found = replace(found, lower_bound_s=least_slowest_s(replace(floors, times=layers), found.lower_bound_s,
                                                                 upto_s))
        return on.named(as_layers(found, self.starts if self.every == 1 else cell_ends(count, self.every)[0], count))

    def run(self, choice: StageChoice) -> tuple[Candidate, ...]:
        """Those stages under every schedule, fastest first; the first schedule is the one they were built for."""
        costs = self.costs
        chosen: list[Chosen] = []
        for entry in self.entries(choice):
            chosen.append(Chosen(costs.space(entry), costs.choice(entry), costs.hand_over_s(entry), costs.gap(entry),
                                 costs.solver(entry)))
        stages = Stages(tuple(chosen), placed(Placement.LINE, len(chosen)), choice.tried, choice.pruned)
        names = self.schedules[:1] if len(chosen) == 1 else self.schedules
        found = [under(costs.prepared, costs.hardware, stages, name) for name in names]
        return tuple(sorted(found, key=lambda c: c.rank))

    def entries(self, choice: StageChoice) -> tuple[Entry, ...]:
        """Where the costs of the stages stand."""
        count = len(choice.stages)
        flights = (self.costs.flights.index(1),) if count == 1 else self.places[:count][::-1]
        return tuple((flight, m, first, last)
                     for flight, (first, last, m) in zip(flights, choice.stages, strict=True))

    def _times(self, seconds: Array, starts: Ints) -> Times:
        """Costs of stages on columns that begin at some layers. One stage alone holds one microbatch, whatever the
        schedule."""
        costs, lasts = self.costs, np.append(starts[1:], len(self.allowed)) - 1
        both = starts[:, None], lasts
        at = np.where(self.allowed[both] & (both[1] - both[0] + 1 >= self.every), costs.slices.at[both], -1)
        return self.columns.of(Times(seconds, at, costs.sends.beginning(starts), np.array(self.places),
                                     costs.flights.index(1), np.arange(len(costs.spaces)), np.zeros((0, 0))), starts)


@dataclass(frozen=True)
class Outcome:
    """Candidates of the best stages, one per schedule at least, fastest first (none if nothing fits), a bound below
    every plan that was searched (infinite if nothing provably fits), what built them, the stages chosen, those that the
    bound comes from, and what bounds them: a builder that leaves open what the one of the best may have fixed."""

    candidates: tuple[Candidate, ...]
    lower_bound_s: float
    builder: Builder
    choice: StageChoice | None
    below: StageChoice | None
    bounder: Builder

    @property
    def candidate(self) -> Candidate | None:
        """The best of those that fit."""
        return next((c for c in self.candidates if c.fits), None)

    @property
    def step_time_s(self) -> float:
        return self.candidate.step_time_s if self.candidate else float("inf")


def line_schedules(kind: str, pins: Pins, device: Device) -> tuple[str, ...]:
    """Schedules with one stage per rank that pipelines are run under; stages are built for the first. GPipe takes the
    time of 1F1B and more memory, so that it is for those who ask for it. Where devices share cores, so is all but 1F1B:
    stages that wait lend their cores, and what a bubble costs is less than what such predictions are off."""
    if kind != "train":
        return ("forward-only",)
    if (pins.chunks or 1) > 1:
        return ()
    if pins.schedule is not None:
        return (pins.schedule,) if SCHEDULES[pins.schedule].chunks[0] == 1 else ()
    if device.alone > 1:
        return ("1f1b",)
    apart = sorted(n for n in SCHEDULES if SCHEDULES[n].splits_backward and SCHEDULES[n].chunks[0] == 1)
    return ("1f1b", *apart)


def best_pipeline(  # noqa: PLR0913  (one call, its options named)
                  prepared: Prepared, hardware: Cluster, spaces: Sequence[SubmeshSpace],
                  tables: dict[MeshSpace, SliceTable], pins: Pins, schedules: Sequence[str] = ("1f1b",), *,
                  prove: bool = True, line: Line = (0,)) -> Outcome:
    """Stage construction over the given submeshes, for these schedules with one stage per rank. `prove`: find the bound
    as well (which takes as long again), 0 otherwise. `line`: the order of the parts of a mixed cluster.

    The bound is for costs that spread a stage's once-per-batch work (gradient sync, update) over its microbatches.
    """
    program = prepared.program
    limit, first = stage_limit(prepared, hardware, pins), SCHEDULES[schedules[0]]
    built_for = SCHEDULES["1f1b"] if first.splits_backward else first
    straight = placed(Placement.LINE, limit)
    flights = [built_for.held(limit - 1 - s, straight, program.microbatches) for s in range(limit)]
    costs = slice_costs(prepared, hardware, spaces, tables, [1, *flights])
    exact = pins.stages if pins.stages is not None else len(pins.boundaries) + 1 if pins.boundaries else None
    places = tuple(costs.flights.index(f) for f in flights)
    builder = Builder(costs, columns(costs, line), tuple(schedules), places, allowed(prepared, pins), exact)
    choice = builder.build()
    found = builder.run(choice) if choice else ()
    outcome = Outcome(found, 0.0, builder, choice, None, builder)
    if not prove:
        return outcome
    below = builder.bound(outcome.step_time_s)
    return _other_stages(replace(outcome, below=below,
                                 lower_bound_s=below.lower_bound_s if below else outcome.step_time_s))


def _other_stages(outcome: Outcome) -> Outcome:
    """The outcome, or a better one of stages that suit schedules with whole backwards less: more of them, as their
    bubble is smaller, or slower ones that hold less, where the weight gradients that wait are too much."""
    builder, choice = outcome.builder, outcome.choice
    apart = tuple(n for n in builder.schedules if SCHEDULES[n].splits_backward)
    if not apart or choice is None or outcome.lower_bound_s >= WORTH * outcome.step_time_s:
        return outcome
    tries = [replace(builder, schedules=apart, bubble=BUBBLE)]
    count = len(choice.stages)
    if count > 1 and not any(c.fits for c in outcome.candidates if c.schedule in apart):
        most = builder.costs.flights.index(min(count, builder.microbatches))
        tries.append(replace(tries[0], places=(most,) * count, exact=count))
    for other in tries:
        found = other.build()
        if found is not None and (found.stages != choice.stages or other.places != builder.places):
            candidates = other.run(found)
            better = any(c.fits and c.step_time_s < outcome.step_time_s for c in candidates)
            merged = tuple(sorted((*outcome.candidates, *candidates), key=lambda c: c.rank))
            outcome = replace(outcome, candidates=merged, builder=other, choice=found) if better else \
                replace(outcome, candidates=merged)
    return outcome


def refined(outcome: Outcome, to_beat_s: float) -> Outcome:
    """Make those slices sharper that the best stages or their bound hang on and build again, a few times; then have the
    solver look at the stages chosen. It ends where no plan can be faster than `to_beat_s`. What it learns stays in the
    outcome's costs: refine an outcome once."""
    builder, bounder, costs = outcome.builder, outcome.bounder, outcome.builder.costs
    floor, choice, below = outcome.lower_bound_s, outcome.choice, outcome.below
    while choice is not None and below is not None and floor < to_beat_s and len(costs.known) < SHARPENED:
        entries = _worth_a_look(costs, builder.microbatches, (builder.entries(choice), bounder.entries(below)), below)
        if not entries:
            break
        for entry in entries:
            sharpen(costs, entry)
        choice, below = builder.build(), bounder.bound(to_beat_s)
        floor = max(floor, below.lower_bound_s if below else to_beat_s)
    if choice is None or not costs.known:
        return outcome
    _finish(builder, choice, to_beat_s)
    better = replace(outcome, candidates=builder.run(choice), lower_bound_s=floor, choice=choice, below=below)
    return better if better.step_time_s < outcome.step_time_s else replace(outcome, lower_bound_s=floor)


def _worth_a_look(costs: SliceCosts, microbatches: int, chosen: Sequence[Sequence[Entry]], below: StageChoice
                  ) -> list[Entry]:
    """Slices whose time could fall, or whose bound could rise, so that the whole changes by more than the tolerance;
    those that could most come first."""
    more = microbatches - 1
    could: dict[Entry, float] = {}
    for entries in chosen:
        slowest = max(costs.floor_s(e) for e in entries)
        for e in entries:
            change = _change(costs.floor_s(e), costs.time_s(e), slowest, more)
            could[e] = max(could.get(e, 0.0), change)
    least = TOLERANCE * below.lower_bound_s
    unknown = (e for e in could if costs.key(e) not in costs.known and could[e] > least)
    return sorted(unknown, key=lambda e: (-could[e], e))[:AT_ONCE]


def _change(low: float, high: float, slowest: float, more: int) -> float:
    """Seconds of a step between a stage at `low` and at `high`, beside stages of which one is `slowest`."""
    if high == np.inf:
        return high
    return high - low + more * max(0.0, high - max(low, slowest))


def _finish(builder: Builder, choice: StageChoice, to_beat_s: float) -> None:
    """Have the solver look at the stages that the step time hangs on, the slowest first."""
    costs, microbatches = builder.costs, builder.microbatches
    entries = builder.entries(choice)
    if microbatches * max(costs.floor_s(e) for e in entries) >= to_beat_s and costs.hardware.device.alone <= 1:
        return
    for entry in sorted(entries, key=lambda e: (-costs.time_s(e), e)):
        rest = [costs.floor_s(e) for e in entries]
        now = microbatches * max(costs.time_s(e) for e in entries)
        if _change(costs.floor_s(entry), costs.time_s(entry), max(rest), microbatches - 1) \
                > TOLERANCE * now:
            finish_stage(costs, entry)


def allowed(prepared: Prepared, pins: Pins) -> NDArray[np.bool_]:
    """Slices that neither pins nor state threading rule out, [first, last]."""
    count = len(prepared.layers)
    found = np.ones((count, count), dtype=bool)
    for cut in forbidden_cuts(prepared):
        found[cut, :] = False
        found[:, cut - 1] = False
    if pins.boundaries is not None:
        layers, cuts = np.arange(count), np.array(pins.boundaries, dtype=np.int64)
        piece = np.searchsorted(cuts, layers, side="right")
        found &= np.isin(layers, [0, *cuts])[:, None] & np.isin(layers + 1, [*cuts, count]) & (piece[:, None] == piece)
    return found
