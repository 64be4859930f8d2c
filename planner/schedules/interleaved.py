"""Interleaved 1F1B: every rank runs several stages, a microbatch goes round the ranks that many times. The bubble is
that of 1F1B divided by the stages per rank; more is held, and more is handed over.

Microbatches go in groups of as many as there are ranks, each group through the first stage of the rank, then through
the second, and so on. (A last group that is smaller makes ranks wait for each other for ever.) Rank r of R with V
stages does 2(R - r - 1) + (V - 1)R forwards ahead, then alternates, and holds one more than that (each counted once
per stage), at most all VB. Step time of equal stages and B microbatches: (VB + R - 1)(f + b), where f and b are those
of one stage, 1/V of a rank.

Source: Narayanan et al., arXiv:2104.04473, section 2.2.2.
"""

from itertools import chain

from planner.core.layout import Layout, Placement
from planner.schedules.table import SCHEDULES, Kind, Schedule, Task, TaskTimes, Timetable


def tasks(layout: Layout, microbatches: int) -> Timetable:
    """See the module."""
    return tuple(_rank(layout, r, microbatches) for r in range(layout.ranks))


def _rank(layout: Layout, rank: int, microbatches: int) -> tuple[Task, ...]:
    stages = layout.stages_of(rank)
    forwards = [Task(s, m, Kind.FORWARD) for s, m in _rounds(stages, layout.ranks, microbatches)]
    backwards = [Task(s, m, Kind.BACKWARD) for s, m in _rounds(stages[::-1], layout.ranks, microbatches)]
    ahead = held(rank, layout, microbatches) - 1
    pairs = chain.from_iterable(zip(forwards[ahead:], backwards, strict=False))
    return (*forwards[:ahead], *pairs, *backwards[len(forwards) - ahead:])


def _rounds(stages: tuple[int, ...], group: int, microbatches: int) -> list[tuple[int, int]]:
    """(stage, microbatch): every stage in turn, one group of microbatches after another."""
    return [(s, m) for first in range(0, microbatches, group) for s in stages for m in range(first, first + group)]


def held(rank: int, layout: Layout, microbatches: int) -> int:
    """See the module."""
    ahead = 2 * (layout.ranks - rank - 1) + (layout.chunks - 1) * layout.ranks
    return min(ahead + 1, layout.chunks * microbatches)


def step_time(layout: Layout, microbatches: int, times: TaskTimes) -> float:
    """See the module."""
    return (layout.chunks * microbatches + layout.ranks - 1) * times.whole_s


INTERLEAVED = SCHEDULES.register("interleaved")(Schedule(
    "interleaved", True, tasks, held, placement=Placement.LOOP, chunks=(2, None), in_rounds=True,
    step_time=step_time))
