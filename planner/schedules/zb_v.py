"""ZB-V: every rank runs two stages, out over the ranks and back (a vee), with the backward in two. Both ends of the
model are on rank 0, so that backwards start after two passes of one rank's length, and every rank holds as many
microbatches as the first rank of 1F1B: 2R, each counted once per stage. Where forward and the two gradients take the
same time, about (R - 1)/6 to a third of R microbatches of waiting are left of the R - 1 of 1F1B.

In the middle of a step every rank repeats a pattern of six tasks, one of each kind and stage. A pattern says how long
after each other the ranks take up a microbatch: `hops`, in tasks, for the forwards out and back and the input gradients
out and back, and `gaps` where it turns; weight gradients fill the two places left. Hops of about two leave each task
time to arrive late, so that tasks of unequal length cost nothing in the middle (hops of one need less memory, and lose
a part of every microbatch). A list scheduling in equal steps makes it whole: a rank takes the task of its place in the
pattern, and at the beginning and the end, where there is none, a forward if it has room, an input gradient, or a weight
gradient, in this order. What is left open, which pattern and where it starts, was searched for by the waiting of 6R
microbatches under five ratios of forward : input : weight gradient (1:1:1, 1:1.3:0.8, 1:2:1 at half weight, 1:1:0.8,
1:0.8:1.3), for up to 16 ranks; for more ranks that of the most of equal remainder by 6 is taken.

Source: Qi et al., arXiv:2401.10241, section 6, and arXiv:2405.15362 (building blocks, V-ZB); the patterns are ours.
"""

from dataclasses import dataclass, field
from functools import lru_cache

from planner.core.layout import Layout, Placement
from planner.schedules.table import SCHEDULES, Kind, Schedule, Task, Timetable

PERIOD = 6
"""Tasks of a microbatch on a rank."""

OUT, BACK = 0, 1
"""The first and the second stage of a rank."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """See the module. `late`: which weight gradient takes the first place left; `start`: the place of the first
    step."""

    hops: tuple[int, int, int, int]
    gaps: tuple[int, int, int]
    late: int
    start: int

    def places(self, rank: int, ranks: int) -> dict[int, tuple[Kind, int]]:
        """The task of every place of a rank: kind, and which of its stages.

        Raises:
          ValueError: two tasks want one place.
        """
        turn = self.hops[0] * (ranks - 1) + self.gaps[0]
        down = turn + self.hops[1] * (ranks - 1) + self.gaps[1]
        up = down + self.hops[2] * (ranks - 1) + self.gaps[2]
        to_end = ranks - 1 - rank
        at = {self.hops[0] * rank % PERIOD: (Kind.FORWARD, OUT),
              (turn + self.hops[1] * to_end) % PERIOD: (Kind.FORWARD, BACK),
              (down + self.hops[2] * rank) % PERIOD: (Kind.INPUT_GRADIENT, BACK),
              (up + self.hops[3] * to_end) % PERIOD: (Kind.INPUT_GRADIENT, OUT)}
        free = [place for place in range(PERIOD) if place not in at]
        if len(free) != 2:
            raise ValueError(f"two tasks of {self} want one place on rank {rank} of {ranks}")
        return at | {free[self.late]: (Kind.WEIGHT_GRADIENT, BACK), free[1 - self.late]: (Kind.WEIGHT_GRADIENT, OUT)}


PATTERNS = (
    Pattern((2, 2, 2, 2), (1, 1, 1), 0, 0),
    Pattern((2, 1, 2, 4), (1, 1, 3), 1, 1),
    Pattern((2, 2, 1, 3), (1, 1, 1), 1, 3),
    Pattern((2, 2, 2, 2), (1, 3, 1), 0, 1),
    Pattern((2, 1, 2, 4), (1, 1, 1), 0, 5),
    Pattern((2, 1, 2, 4), (1, 1, 3), 1, 3),
    Pattern((2, 2, 2, 2), (1, 1, 3), 1, 3),
    Pattern((2, 2, 2, 2), (1, 3, 1), 1, 1),
    Pattern((2, 1, 2, 4), (1, 1, 1), 0, 5),
    Pattern((2, 1, 2, 4), (1, 1, 3), 0, 5),
    Pattern((2, 1, 2, 4), (1, 1, 1), 1, 4),
    Pattern((2, 1, 2, 4), (1, 1, 3), 0, 0),
    Pattern((2, 1, 2, 4), (1, 1, 1), 1, 3),
    Pattern((2, 2, 2, 2), (1, 3, 1), 0, 1),
    Pattern((2, 2, 2, 2), (1, 1, 1), 0, 4),
    Pattern((2, 2, 2, 2), (1, 1, 3), 1, 0),
)
"""For 1 rank, 2 ranks, and so on [searched for, see the module]."""


def pattern_of(ranks: int) -> Pattern:
    """The pattern for that many ranks. Whether its places are free depends on the remainder by 6 alone."""
    known = len(PATTERNS)
    return PATTERNS[ranks - 1 if ranks <= known else ranks - 1 - PERIOD * -(-(ranks - known) // PERIOD)]


@dataclass
class _Rank:
    """A rank under way: its places, and per kind and stage how many microbatches it has done."""

    stages: tuple[int, int]
    places: dict[int, tuple[Kind, int]]
    done: dict[tuple[Kind, int], int] = field(default_factory=lambda: dict.fromkeys(
        ((kind, way) for kind in _KINDS for way in (OUT, BACK)), 0))
    order: list[Task] = field(default_factory=list[Task])

    @property
    def held(self) -> int:
        return sum(self.done[Kind.FORWARD, way] - self.done[Kind.WEIGHT_GRADIENT, way] for way in (OUT, BACK))


_KINDS = (Kind.FORWARD, Kind.INPUT_GRADIENT, Kind.WEIGHT_GRADIENT)


@lru_cache(maxsize=64)
def tasks(layout: Layout, microbatches: int) -> Timetable:
    """See the module."""
    return scheduled(layout, microbatches, pattern_of(layout.ranks))


def scheduled(layout: Layout, microbatches: int, pattern: Pattern) -> Timetable:
    """The timetable by a pattern."""
    count, last = layout.ranks, layout.stages - 1
    ranks = [_Rank((r, last - r), pattern.places(r, count)) for r in range(count)]
    ends: dict[tuple[Kind, int, int], int] = {}
    for step in range(4 * PERIOD * (microbatches + count)):
        picked = [(rank, key) for rank in ranks if (key := _pick(rank, step, pattern.start, _Known(
            ends, step, last, microbatches, 2 * count))) is not None]
        for rank, (kind, way) in picked:
            task = Task(rank.stages[way], rank.done[kind, way], kind)
            rank.order.append(task)
            rank.done[kind, way] += 1
            ends[kind, task.stage, task.microbatch] = step + 1
        if len(ends) == len(_KINDS) * layout.stages * microbatches:
            break
    return tuple(tuple(rank.order) for rank in ranks)


@dataclass(frozen=True, slots=True)
class _Known:
    """What a rank knows when it picks: when tasks have ended, now, the last stage, and what bounds it."""

    ends: dict[tuple[Kind, int, int], int]
    now: int
    last: int
    microbatches: int
    room: int

    def over(self, kind: Kind, stage: int, microbatch: int) -> bool:
        """Whether a task has ended."""
        return self.ends.get((kind, stage, microbatch), self.now + 1) <= self.now

    def ready(self, rank: _Rank, kind: Kind, way: int) -> bool:
        """Whether the next task of a kind can start. A place is kept for the forward back: it lets others go on."""
        stage, m = rank.stages[way], rank.done[kind, way]
        if m == self.microbatches:
            return False
        if kind is Kind.FORWARD:
            room = rank.held < self.room - (1 if way == OUT else 0)
            return room and (stage == 0 or self.over(kind, stage - 1, m))
        if kind is Kind.WEIGHT_GRADIENT:
            return self.over(Kind.INPUT_GRADIENT, stage, m)
        return self.over(Kind.FORWARD, stage, m) and (stage == self.last or self.over(kind, stage + 1, m))


def _pick(rank: _Rank, step: int, start: int, known: _Known) -> tuple[Kind, int] | None:
    planned = rank.places[(step + start) % PERIOD]
    if known.ready(rank, *planned):
        return planned
    ready = [key for key in rank.done if known.ready(rank, *key)]
    return min(ready, key=lambda key: (_KINDS.index(key[0]), rank.done[key], -rank.stages[key[1]]), default=None)


def held(rank: int, layout: Layout, microbatches: int) -> int:
    """As much on every rank as the first rank of 1F1B, counted once per stage; short steps may hold less."""
    del rank
    return min(layout.stages, 2 * microbatches)


ZB_V = SCHEDULES.register("zb-v")(Schedule(
    "zb-v", True, tasks, held, splits_backward=True, placement=Placement.VEE, chunks=(2, 2)))
