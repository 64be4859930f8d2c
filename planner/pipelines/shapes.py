"""Which pipelines with several stages per rank are worth building, and the best of those.

A shape is a schedule, a number of ranks, and of stages on each. Its estimate is all of its work spread over all ranks
and the bubble that its schedule has on equal stages, as if one microbatch were held; where that beats what is known,
layers are cut with what the schedule holds. If that does as well, the shape is built: it is part of what was searched,
and of the bound (`virtual_bound.py`); shapes that are left out are neither.

In: costs of slices, shapes that pins allow. Out: `Candidate`s, a floor below all shapes that were built.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.core.hardware import Cluster
from planner.core.layout import Placement
from planner.core.pins import Pins
from planner.pipelines.deep import cell_ends, spacing
from planner.pipelines.pipeline import WORTH, Candidate
from planner.pipelines.stages import Sharing
from planner.pipelines.virtual_bound import floor_s
from planner.pipelines.virtual_stages import Ground, Shape, draft, offer, through_s, virtual_stages
from planner.schedules import SCHEDULES, TaskTimes
from planner.slice_costs import SliceCosts
from planner.spaces import SubmeshSpace

CHUNKS = (2, 4)
"""Stages per rank that are tried where a schedule leaves it open. [chosen: Narayanan et al., SC'21, figure 12, gain
little beyond]"""

LOOKED_AT = 12
"""Shapes of one number of microbatches that are priced with what they hold in memory, at most. [chosen: seconds in all
with 64 devices]"""


@dataclass(frozen=True)
class Rated:
    """A shape, on which submesh, and its estimate."""

    shape: Shape
    space: SubmeshSpace
    estimate_s: float


@dataclass(frozen=True)
class Built:
    """Candidates, fastest first, a floor below all pipelines of the shapes built (infinite if none was), how many
    were left out, and per schedule the best estimate of those."""

    candidates: tuple[Candidate, ...]
    lower_bound_s: float
    left_out: int
    estimates: tuple[tuple[str, float], ...]


def virtual_pipelines(costs: SliceCosts, pins: Pins, allowed: NDArray[np.bool_], to_beat_s: float) -> Built:
    """See the module. Where a schedule of several stages per rank is pinned, or how many they are, all such shapes are
    built, whatever there is to beat. `costs` are those of slices with one microbatch in flight, among others;
    `allowed` says which slices may be stages, [first, last]."""
    prepared, hardware = costs.prepared, costs.hardware
    fixed = pins.schedule is not None or pins.chunks is not None
    if prepared.program.kind != "train":
        return Built((), float("inf"), 0, ())
    rated = sorted(_rated(costs, pins, allowed), key=lambda r: r.estimate_s)
    found: list[Candidate] = []
    floor, best, built, estimates = float("inf"), to_beat_s, 0, dict[str, float]()
    for n, r in enumerate(rated):
        estimate_s, drafted = r.estimate_s, None
        if fixed or (n < LOOKED_AT and estimate_s < WORTH * best):
            drafted = draft(offer(Ground(prepared, hardware, r.space, costs.tables, allowed), r.shape))
            estimate_s = drafted.estimate_s if drafted else float("inf")
        if drafted is None or (not fixed and estimate_s >= WORTH * best):
            estimates[r.shape.schedule] = min(estimate_s, estimates.get(r.shape.schedule, estimate_s))
            continue
        built += 1
        floor = min(floor, floor_s(drafted.offered.ground, r.shape))
        candidate = virtual_stages(drafted)
        if candidate is not None:
            found.append(candidate)
            best = min(best, candidate.step_time_s)
    return Built(tuple(sorted(found, key=lambda c: c.step_time_s)), floor, len(rated) - built, tuple(estimates.items()))


def shapes(device_count: int, layers: int, microbatches: int, space: SubmeshSpace, pins: Pins) -> Iterator[Shape]:
    """The shapes that pins allow on ranks of one submesh."""
    ranks, left = divmod(device_count, space.submesh.device_count)
    if left or ranks < 2:
        return
    stages = pins.stages if pins.stages is not None else len(pins.boundaries) + 1 if pins.boundaries else None
    for name in [pins.schedule] if pins.schedule else SCHEDULES:
        schedule = SCHEDULES[name]
        fewest, most = schedule.chunks
        if not schedule.trains or schedule.placement is Placement.LINE or (
                schedule.in_rounds and microbatches % ranks):
            continue
        options = [pins.chunks] if pins.chunks is not None else CHUNKS if stages is None else [stages // ranks]
        for chunks in options:
            if max(fewest, 2) <= chunks <= (most or chunks) and ranks * chunks <= layers and \
                    stages in (None, ranks * chunks):
                yield Shape(name, ranks, chunks)


def _rated(costs: SliceCosts, pins: Pins, allowed: NDArray[np.bool_]) -> Iterator[Rated]:
    count, microbatches, every = costs.hardware.device_count, costs.prepared.program.microbatches, spacing(allowed)
    for m, space in enumerate(costs.spaces):
        mine = list(shapes(count, -(-len(allowed) // every), microbatches, space, pins))
        if not mine:
            continue
        ends = cell_ends(len(allowed), every)
        times = np.where(allowed[ends[0][:, None], ends[1]], costs.between_s(costs.flights.index(1), m, *ends), np.inf)
        for shape in mine:
            whole_s = through_s(shape, times)
            if whole_s < np.inf:
                yield Rated(shape, space, _estimate_s(shape, whole_s, microbatches, costs.hardware))


def _estimate_s(shape: Shape, whole_s: float, microbatches: int, hardware: Cluster) -> float:
    """A step of equal stages through which a microbatch takes `whole_s`, their three parts equally long."""
    third, work_s = whole_s / shape.stages / 3, microbatches * whole_s / shape.ranks
    closed = SCHEDULES[shape.schedule].step_time(shape.layout, microbatches, TaskTimes(third, third, third))
    path_s = work_s if closed is None else max(work_s, closed)
    if hardware.device.alone <= 1:
        return path_s
    return Sharing((), hardware.device_count, hardware.device.alone).time_s(path_s, work_s)
