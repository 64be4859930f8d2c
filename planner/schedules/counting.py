"""What every stage holds of every microbatch while its rank runs its tasks in order: counted, whatever the times are.

In: a schedule, a layout and a number of microbatches. Out: moments at which a rank may hold most, and most per stage.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from planner.core.layout import Layout
from planner.schedules.table import SCHEDULES, Kind, Task


@dataclass(frozen=True, slots=True)
class Moment:
    """What a rank holds at once, per stage of the rank in order.

    Attributes:
      in_flight: microbatches been forward, and not yet through the backward or the input gradient: their activations.
      waiting: microbatches between input and weight gradient: what the weight gradient will read.
    """

    in_flight: tuple[int, ...]
    waiting: tuple[int, ...]


@lru_cache(maxsize=256)
def moments(name: str, layout: Layout, microbatches: int) -> tuple[tuple[Moment, ...], ...]:
    """Per rank, the moments of which no other holds as much of everything. The most bytes of a rank are at one of them.

    Raises:
      UnknownNameError, PlanMismatchError: as `tasks_of`.
    """
    schedule = SCHEDULES[name]
    schedule.check(layout, microbatches)
    return tuple(_undominated(_moments(order, layout.stages_of(rank), schedule.kinds[-1]))
                 for rank, order in enumerate(schedule.tasks(layout, microbatches)))


def in_flight(name: str, layout: Layout, microbatches: int) -> tuple[int, ...]:
    """Per stage, the most microbatches whose activations are held.

    Raises:
      UnknownNameError, PlanMismatchError: as `tasks_of`.
    """
    return _most(layout, [[m.in_flight for m in found] for found in moments(name, layout, microbatches)])


def waiting(name: str, layout: Layout, microbatches: int) -> tuple[int, ...]:
    """Per stage, the most microbatches between input and weight gradient.

    Raises:
      UnknownNameError, PlanMismatchError: as `tasks_of`.
    """
    return _most(layout, [[m.waiting for m in found] for found in moments(name, layout, microbatches)])


def _most(layout: Layout, found: list[list[tuple[int, ...]]]) -> tuple[int, ...]:
    most = [0] * layout.stages
    for rank, counts in enumerate(found):
        for k, stage in enumerate(layout.stages_of(rank)):
            most[stage] = max(c[k] for c in counts)
    return tuple(most)


def _moments(order: Iterable[Task], stages: tuple[int, ...], last: Kind) -> set[Moment]:
    """While every task runs: what it reads is still held, what it makes is held already. Nothing is held after a
    microbatch's task of the last kind."""
    ahead, late = dict.fromkeys(stages, 0), dict.fromkeys(stages, 0)
    found: set[Moment] = set()
    for task in order:
        if task.phase is Kind.FORWARD:
            ahead[task.stage] += 1
        found.add(Moment(tuple(ahead.values()), tuple(late.values())))
        if task.phase is Kind.INPUT_GRADIENT:
            late[task.stage] += 1
        if task.phase is Kind.WEIGHT_GRADIENT:
            late[task.stage] -= 1
        elif task.phase in (last, Kind.INPUT_GRADIENT):
            ahead[task.stage] -= 1
    return found


def _undominated(found: set[Moment]) -> tuple[Moment, ...]:
    counts = sorted(((*m.in_flight, *m.waiting) for m in found), key=lambda c: (-sum(c), c))
    kept: list[tuple[int, ...]] = []
    for c in counts:
        if not any(all(a >= b for a, b in zip(k, c, strict=True)) for k in kept):
            kept.append(c)
    return tuple(Moment(c[:len(c) // 2], c[len(c) // 2:]) for c in kept)
