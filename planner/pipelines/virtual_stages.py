"""Pipelines whose ranks run several stages each (virtual stages): as many equal submeshes as ranks, layers cut so that
every rank has as much to do.

Stage construction over stages of one rank does not see which stages share one. So layers are first cut for the least
slowest stage (`stages.construct`), then the cuts are moved, one or several neighbouring ones at a time by one layer, as
long as that makes the slowest rank faster. The stages of a rank share its memory: a few ways of sharing it are priced,
and each rank takes the fastest; what all of it takes together is counted at the end (`pipelines.under`), so that a
first and a last stage on one rank, as of zb-v, may take unequal parts. Stages of very deep models are of whole cells
(`deep.py`): layers below are those.

In: slice tables of one submesh, a schedule, ranks and stages per rank. Out: the `Candidate`, if it fits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from planner.core.hardware import Cluster
from planner.core.layout import Layout, placed
from planner.intraop.compose import SliceTable
from planner.pipelines.deep import cell_ends, spacing
from planner.pipelines.pipeline import Candidate, Chosen, Stages, held_moments, under
from planner.pipelines.slicings import each_time, slicings
from planner.pipelines.stages import construct
from planner.prepared import Prepared
from planner.schedules import SCHEDULES, Moment
from planner.slice_costs import SliceCosts, slice_costs
from planner.spaces import MeshSpace, SubmeshSpace

Array = NDArray[np.float64]
Cuts = NDArray[np.int64]

UNEVEN = (1 / 3, 1 / 2, 2 / 3)
"""Parts of a rank's memory that one of its two stages may take. [chosen]"""

MOVES = 60
"""Moves of cuts at most. [chosen: far more than were seen]"""


@dataclass(frozen=True)
class Shape:
    """A schedule on so many ranks of so many stages each."""

    schedule: str
    ranks: int
    chunks: int

    @property
    def layout(self) -> Layout:
        return placed(SCHEDULES[self.schedule].placement, self.ranks, self.chunks)

    @property
    def stages(self) -> int:
        return self.ranks * self.chunks


@dataclass(frozen=True)
class Ground:
    """What virtual stages are built on: a program, a cluster, the submesh of every rank, its slice tables, slices that
    are allowed ([first, last])."""

    prepared: Prepared
    hardware: Cluster
    space: SubmeshSpace
    tables: dict[MeshSpace, SliceTable]
    allowed: NDArray[np.bool_]

    @cached_property
    def every(self) -> int:
        """Layers of a cell."""
        return spacing(self.allowed)


@dataclass(frozen=True)
class Offer:
    """What slices cost as stages of a shape.

    Attributes:
      most: per stage, microbatches held, those that wait for their weight gradients counted whole.
      costs: per part of a rank's memory, ascending.
      seconds: [part, stage, first, last].
      ways: [way, chunk]: the parts that the stages of a rank may take, by their index.
    """

    ground: Ground
    shape: Shape
    most: tuple[int, ...]
    costs: tuple[SliceCosts, ...]
    seconds: Array
    ways: NDArray[np.int64]

    @property
    def microbatches(self) -> int:
        return self.ground.prepared.program.microbatches


@dataclass(frozen=True)
class Draft:
    """Layers cut for the least slowest stage, and about the seconds of a step of that."""

    offered: Offer
    cuts: Cuts
    estimate_s: float


def through_s(shape: Shape, seconds: Array) -> float:
    """The least that a microbatch takes through the stages of a shape, at seconds per slice, [first, last], or per
    stage and slice."""
    each = np.broadcast_to(seconds, (shape.stages, *seconds.shape[-2:]))[::-1, None]
    found = slicings(each_time(each), np.array([1]), shape.stages).least_sum(np.inf, shape.stages)
    return found[0] if found else float("inf")


def offer(ground: Ground, shape: Shape) -> Offer:
    """Price slices as stages of a shape.

    Raises:
      PlanMismatchError: the schedule does not run so many microbatches.
    """
    moments = held_moments(shape.schedule, shape.layout, ground.prepared.program.microbatches)
    most, shares = _most_held(shape.layout, moments), _shares(shape.chunks)
    levels = sorted({part for way in shares for part in way})
    costs = tuple(_costs(ground, part, most) for part in levels)
    seconds = np.stack([_by_stage(ground, c, most) for c in costs])
    return Offer(ground, shape, most, costs, seconds, np.array([[levels.index(p) for p in way] for way in shares]))


def draft(offered: Offer) -> Draft | None:
    """A first cut of the layers; None if nothing fits."""
    shape, seconds, microbatches = offered.shape, offered.seconds, offered.microbatches
    start = _start(seconds, shape, microbatches)
    if start is None:
        return None
    return Draft(offered, start, float(_scores(seconds, offered.ways, shape.layout, start[None], microbatches)[0]))


def virtual_stages(drafted: Draft) -> Candidate | None:
    """The best pipeline of that shape that was found; None if it does not fit."""
    offered = drafted.offered
    shape, ground, seconds, ways = offered.shape, offered.ground, offered.seconds, offered.ways
    cuts = _moved(seconds, ways, shape, drafted.cuts, offered.microbatches)
    parts = _parts(seconds, ways, shape.layout, cuts)
    if parts is None:
        return None
    begins = np.minimum(cuts * ground.every, len(ground.allowed))
    chosen = [_chosen(offered.costs[part], offered.most[s], int(begins[s]), int(begins[s + 1]) - 1)
              for s, part in enumerate(parts)]
    found = under(ground.prepared, ground.hardware, Stages(tuple(chosen), shape.layout), shape.schedule)
    return found if found.fits else None


def _most_held(layout: Layout, moments: Sequence[Sequence[Moment]]) -> tuple[int, ...]:
    """Per stage, the most microbatches it holds, those that wait for their weight gradients counted whole."""
    most = [1] * layout.stages
    for rank, found in enumerate(moments):
        for at, s in enumerate(layout.stages_of(rank)):
            most[s] = max(m.in_flight[at] + m.waiting[at] for m in found)
    return tuple(most)


def _shares(chunks: int) -> tuple[tuple[float, ...], ...]:
    """Ways to share the memory of a rank among its stages."""
    if chunks != 2:
        return ((1 / chunks,) * chunks,)
    return tuple(way for way in product(UNEVEN, repeat=2) if abs(sum(way) - 1) < 1e-9)


def _costs(ground: Ground, part: float, most: Sequence[int]) -> SliceCosts:
    """Slices that keep to a part of the memory."""
    device = ground.hardware.device
    limited = replace(ground.hardware, device=replace(device, memory_bytes=int(device.memory_bytes * part)))
    return slice_costs(ground.prepared, limited, (ground.space,), ground.tables, most)


def _by_stage(ground: Ground, costs: SliceCosts, most: Sequence[int]) -> Array:
    """Seconds of every slice as every stage, [stage, first, last]."""
    ends = cell_ends(len(ground.allowed), ground.every)
    may = ground.allowed[ends[0][:, None], ends[1]]
    of = {n: np.where(may, costs.between_s(costs.flights.index(n), 0, *ends), np.inf) for n in set(most)}
    return np.stack([of[n] for n in most])


def _start(seconds: Array, shape: Shape, microbatches: int) -> Cuts | None:
    """Cuts with the least slowest stage: under equal shares, or where that is not possible under the largest."""
    for part in (len(seconds) // 2, len(seconds) - 1):
        times = each_time(seconds[part, ::-1, None])  # as stage construction counts them, from the last
        found = construct(times, np.array([1]), shape.stages, microbatches * shape.chunks, exact_stages=shape.stages)
        if found is not None:
            return np.array([*(first for first, _, _ in found.stages), seconds.shape[2]])
    return None


def _moved(seconds: Array, ways: NDArray[np.int64], shape: Shape, cuts: Cuts, microbatches: int) -> Cuts:
    """Move runs of neighbouring cuts by one layer while that helps."""
    stages, layout = shape.stages, shape.layout
    runs = [(i, j) for i in range(1, stages) for j in range(i, stages)]
    change = np.zeros((2 * len(runs), stages + 1), dtype=np.int64)
    for n, (i, j) in enumerate(runs):
        change[2 * n, i:j + 1], change[2 * n + 1, i:j + 1] = 1, -1
    best = _scores(seconds, ways, layout, cuts[None], microbatches)[0]
    for _ in range(MOVES):
        tries = cuts[None] + change
        tries = tries[(np.diff(tries, axis=1) >= 1).all(axis=1)]
        scores = _scores(seconds, ways, layout, tries, microbatches) if len(tries) else np.array([np.inf])
        at = int(np.argmin(scores))
        if not scores[at] < best * (1 - 1e-9):
            break
        cuts, best = tries[at], scores[at]
    return cuts


def _of_ranks(seconds: Array, ways: NDArray[np.int64], layout: Layout, cuts: NDArray[np.int64]) -> Array:
    """Seconds per microbatch of every rank, for rows of cuts, [way, row, rank]."""
    stage = np.arange(layout.stages)
    each = seconds[:, stage[None], cuts[:, :-1], cuts[:, 1:] - 1]  # [part, row, stage]
    mine = np.array([layout.stages_of(r) for r in range(layout.ranks)])  # [rank, chunk]
    chunk = np.arange(len(mine[0]))
    return np.stack([each[:, :, mine][way, :, :, chunk].sum(axis=0) for way in ways])


def _scores(seconds: Array, ways: NDArray[np.int64], layout: Layout, cuts: NDArray[np.int64], microbatches: int
            ) -> Array:
    """About the seconds of a step: all microbatches through the slowest rank, one slowest stage for every other rank,
    and a little of all the rest."""
    ranks = _of_ranks(seconds, ways, layout, cuts).min(axis=0)
    slowest = seconds[:, np.arange(layout.stages)[None], cuts[:, :-1], cuts[:, 1:] - 1].min(axis=0).max(axis=1)
    return microbatches * ranks.max(axis=1) + (layout.ranks - 1) * slowest + 0.01 * ranks.mean(axis=1)


def _parts(seconds: Array, ways: NDArray[np.int64], layout: Layout, cuts: Cuts) -> list[int] | None:
    """Per stage, the part of the memory that it gets; None if a rank can't."""
    ranks = _of_ranks(seconds, ways, layout, cuts[None])[:, 0]
    if not np.isfinite(ranks.min(axis=0)).all():
        return None
    best = np.argmin(ranks, axis=0)
    return [int(ways[best[r], layout.stages_of(r).index(s)]) for s, r in enumerate(layout.rank_of)]


def _chosen(costs: SliceCosts, held: int, first: int, last: int) -> Chosen:
    entry = (costs.flights.index(held), 0, first, last)
    return Chosen(costs.space(entry), costs.choice(entry), costs.hand_over_s(entry), costs.gap(entry),
                  costs.solver(entry))
