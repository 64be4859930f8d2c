"""Chosen stages as a pipeline under a schedule: shared parameters settled, memory counted, the step priced.

The same stages may run under several schedules, which differ in what is held when, in what waits for what, and in how
many programs are called. In: what was chosen for every stage, which rank runs it, a schedule. Out: a `Candidate`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from planner.assemble import StagePick
from planner.core.hardware import Cluster
from planner.core.layout import Layout, Placement
from planner.costs.transfer import cut_transfer_s, hand_over_s
from planner.intraop.shared_params import StageShare, with_shared_params
from planner.intraop.slice_choice import SliceChoice
from planner.pipelines.lines import placed_by_part
from planner.pipelines.places import place
from planner.pipelines.price import Pipeline, price, stage_times
from planner.pipelines.rank_memory import Held, Peak, held, rank_peak
from planner.pipelines.stages import Sharing
from planner.prepared import Prepared
from planner.schedules import SCHEDULES, Moment, TaskTimes, moments
from planner.spaces import MeshSpace

WORTH = 0.998
"""Other pipelines are looked at where a bound or an estimate of them is below this part of what is known. [chosen:
below the tolerance of stage construction nothing is told apart]"""


@dataclass(frozen=True)
class Candidate:
    """Stages under a schedule, predicted seconds of a step, share of waiting, peak bytes per device, and whether that
    fits; how many bounds on the slowest stage were tried and skipped to find them; what they were built as."""

    prepared: Prepared
    stages: tuple[StagePick, ...]
    step_time_s: float
    peak_bytes: float
    tried: int
    pruned: int
    schedule: str
    bubble: float
    fits: bool
    built: "Stages"

    @property
    def microbatches(self) -> int:
        return self.prepared.program.microbatches

    @property
    def rank(self) -> tuple[bool, float]:
        """Candidates that fit come first, the fastest of them before all."""
        return not self.fits, self.step_time_s


@dataclass(frozen=True)
class Chosen:
    """One stage: its mesh, choice, what handing over to it takes per microbatch, the gap of the choice, who chose."""

    space: MeshSpace
    choice: SliceChoice
    send_s: float
    gap: float
    solver: str


@dataclass(frozen=True)
class Stages:
    """Stages in order, and how they lie on ranks; `tried` and `pruned` as in `Candidate`."""

    chosen: tuple[Chosen, ...]
    layout: Layout
    tried: int = 0
    pruned: int = 0

    def on(self, hardware: Cluster) -> tuple[tuple[int, ...], ...]:
        """Devices per stage."""
        sizes = [c.space.mesh.device_count for c in self.chosen]
        if self.layout.follows(Placement.LINE):
            return placed_by_part(sizes, [c.space.part for c in self.chosen], hardware)
        ranks = [sizes[self.layout.rank_of.index(r)] for r in range(self.layout.ranks)]
        placed = place(ranks)
        return tuple(placed[r] for r in self.layout.rank_of)


def under(prepared: Prepared, hardware: Cluster, stages: Stages, schedule: str) -> Candidate:
    """The stages under that schedule.

    Raises:
      PlanMismatchError: the schedule does not run on that layout, or with so many microbatches.
    """
    layout = stages.layout
    usable = [hardware.kinds[c.space.part].device.usable_bytes for c in stages.chosen]
    may_hold = held_moments(schedule, layout, prepared.program.microbatches)
    choices, holds, peaks = _settled(prepared, stages, may_hold, usable)
    picks: list[StagePick] = []
    lie = stages.on(hardware)
    for s, (chosen, choice, devices) in enumerate(zip(stages.chosen, choices, lie, strict=True)):
        rank = layout.rank_of[s]
        at, moment = layout.stages_of(rank).index(s), peaks[rank].moment
        send_s = chosen.send_s + _farther_s(prepared, hardware, stages, lie, s)
        picks.append(StagePick(chosen.space.mesh, chosen.space.names, choice, devices, moment.in_flight[at], send_s,
                               chosen.gap, chosen.solver, moment.waiting[at],
                               holds[s].waiting if moment.waiting[at] else 0.0))
    pipeline = Pipeline(schedule, layout, _times(prepared, hardware, picks, schedule),
                        tuple(c.batch_s for c in choices), prepared.program.microbatches)
    found = price(pipeline, _sharing(hardware, stages))
    peak = max(p.bytes for p in peaks)
    fit = all(p.bytes <= usable[layout.rank_of.index(rank)] * (1 + 1e-9) for rank, p in enumerate(peaks))
    return Candidate(prepared, tuple(picks), found.step_time_s, peak, stages.tried, stages.pruned, schedule,
                     found.bubble, fit, stages)


def held_moments(schedule: str, layout: Layout, microbatches: int) -> tuple[tuple[Moment, ...], ...]:
    """Per rank, what it may hold at once; of long steps counted on a short one that holds as much."""
    whole = SCHEDULES[schedule]
    short = min(microbatches, 3 * layout.stages + (microbatches - 3 * layout.stages) % layout.ranks)
    alike = all(whole.held(r, layout, short) == whole.held(r, layout, microbatches) for r in range(layout.ranks))
    return moments(schedule, layout, short if alike else microbatches)


def _settled(prepared: Prepared, stages: Stages, may_hold: Sequence[Sequence[Moment]],
             usable: Sequence[float]
             ) -> tuple[tuple[SliceChoice, ...], tuple[Held, ...], tuple[Peak, ...]]:
    """Every stage's choice with shared parameters settled, what it holds, and the peak of every rank."""
    layout = stages.layout
    each = [limit / layout.chunks for limit in usable]
    shares: list[StageShare] = []
    for s, chosen in enumerate(stages.chosen):
        rank = layout.rank_of[s]
        at = layout.stages_of(rank).index(s)
        shares.append(StageShare(chosen.choice, max(m.in_flight[at] for m in may_hold[rank])))
    choices = with_shared_params(prepared.index, prepared.layers, shares, each)
    holds = tuple(held(c, _waiting_bytes(prepared, c, may_hold)) for c in choices)
    peaks = tuple(rank_peak([holds[s] for s in layout.stages_of(r)], may_hold[r]) for r in range(layout.ranks))
    return choices, holds, peaks


def _waiting_bytes(prepared: Prepared, choice: SliceChoice, may_hold: Sequence[Sequence[Moment]]) -> float:
    waits = any(any(m.waiting) for found in may_hold for m in found)
    return prepared.weights.of(choice).read_bytes if waits else 0.0


def _farther_s(prepared: Prepared, hardware: Cluster, stages: Stages, lie: Sequence[tuple[int, ...]], s: int) -> float:
    """What handing over to a stage takes on top of its price, now that it is known where stages lie: nothing is sent
    where the stage before is on the same rank, and it takes longer from one node or rack to another than in one."""
    if s == 0:
        return 0.0
    ways = 2 if prepared.program.kind == "train" else 1
    size_bytes = prepared.crossing_bytes[stages.chosen[s].choice.steps[0].layer]
    priced_s = cut_transfer_s(size_bytes, len(lie[s]), hardware.kinds[stages.chosen[s].space.part])
    if lie[s - 1] == lie[s]:
        return -ways * priced_s
    return ways * (hand_over_s(size_bytes, lie[s - 1], lie[s], hardware) - priced_s)


def _times(prepared: Prepared, hardware: Cluster, picks: Sequence[StagePick], schedule: str) -> tuple[TaskTimes, ...]:
    if not SCHEDULES[schedule].trains:
        return tuple(TaskTimes(p.choice.microbatch_s + p.send_s, 0.0) for p in picks)
    splits = SCHEDULES[schedule].splits_backward
    found: list[TaskTimes] = []
    for s, pick in enumerate(picks):
        away = s > 0 and picks[s - 1].devices != pick.devices
        carried = min(pick.send_s / 2, hand_over_s(prepared.crossing_bytes[pick.first], picks[s - 1].devices,
                                                   pick.devices, hardware)) if away else 0.0
        weight = prepared.weights.of(pick.choice).seconds if splits else 0.0
        found.append(stage_times(pick.choice.parts, weight, pick.send_s / 2 - carried, carried, splits=splits))
    return tuple(found)


def _sharing(hardware: Cluster, stages: Stages) -> Sharing | None:
    if hardware.device.alone <= 1:
        return None
    count = hardware.device_count
    parts = [stages.chosen[stages.layout.rank_of.index(r)].space.mesh.device_count / count
             for r in range(stages.layout.ranks)]
    return Sharing(parts, count, hardware.device.alone)
