"""What a schedule is: a list of tasks per rank, and what is known of it in closed form.

A file in this folder registers a `Schedule`; nothing else is needed, and the contract tests run over it. In: a layout
of stages on ranks, and the number of microbatches. Out: tasks, what is held at once, step time.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from planner.core.layout import Layout, Placement
from planner.errors import PlanMismatchError
from planner.registry import Table


class Kind(StrEnum):
    """What a task does with a microbatch. A schedule has whole backwards, or the two gradients apart: what the stage
    before waits for, then what only the parameters need. Named as `core.programs` does."""

    FORWARD = "forward"
    BACKWARD = "backward"
    INPUT_GRADIENT = "input_gradient"
    WEIGHT_GRADIENT = "weight_gradient"


@dataclass(frozen=True, slots=True)
class Task:
    """One microbatch through one stage, one way."""

    stage: int
    microbatch: int
    phase: Kind


Timetable = tuple[tuple[Task, ...], ...]
"""Per rank, its tasks in the order it runs them."""


@dataclass(frozen=True, slots=True)
class TaskTimes:
    """Seconds of each task of one stage; a whole backward takes both gradients."""

    forward_s: float
    input_s: float
    weight_s: float = 0.0

    @property
    def backward_s(self) -> float:
        return self.input_s + self.weight_s

    @property
    def whole_s(self) -> float:
        return self.forward_s + self.input_s + self.weight_s


def _no_time(layout: Layout, microbatches: int, times: TaskTimes) -> None:
    del layout, microbatches, times


@dataclass(frozen=True)
class Schedule:
    """One way to run a pipeline. What is held follows from the order of tasks, whatever the times are.

    Attributes:
      name: as in `PlanRecord.schedule`.
      trains: whether it has backward tasks.
      tasks: `(layout, microbatches) -> Timetable`.
      held: `(rank, layout, microbatches)` -> most microbatches that are with a rank at once, counted once per stage of
        the rank: been forward through the stage, and not yet through the last of its backward tasks. Exact, but for
        ZB-V, which may hold less in short steps.
      splits_backward: whether backwards are input gradient and weight gradient apart.
      placement: how it wants stages to lie on ranks.
      chunks: fewest and most stages per rank (None: any number).
      in_rounds: whether microbatches must be a multiple of the ranks.
      step_time: `(layout, microbatches, times)` -> seconds for equal stages, communication free; None where no closed
        form is known for these.
    """

    name: str
    trains: bool
    tasks: Callable[[Layout, int], Timetable]
    held: Callable[[int, Layout, int], int]
    splits_backward: bool = False
    placement: Placement = Placement.LINE
    chunks: tuple[int, int | None] = (1, 1)
    in_rounds: bool = False
    step_time: Callable[[Layout, int, TaskTimes], float | None] = _no_time

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The tasks that every microbatch has on every stage, in order."""
        if not self.trains:
            return (Kind.FORWARD,)
        if self.splits_backward:
            return (Kind.FORWARD, Kind.INPUT_GRADIENT, Kind.WEIGHT_GRADIENT)
        return (Kind.FORWARD, Kind.BACKWARD)

    def check(self, layout: Layout, microbatches: int) -> None:
        """Refuse what the schedule cannot run. One stage alone runs under any.

        Raises:
          PlanMismatchError: the stages lie on ranks in another way, or the microbatches do not come out even.
        """
        fewest, most = self.chunks
        if layout.stages == 1:
            return
        if not (layout.follows(self.placement) and fewest <= layout.chunks
                                      and (most is None or layout.chunks <= most)):
            per = f"{fewest}" if most == fewest else f"{fewest} to {most}" if most else f"{fewest} or more"
            raise PlanMismatchError(
                f"schedule {self.name!r} wants {per} stages per rank in a {self.placement}; the stages lie on ranks "
                f"{list(layout.rank_of)}", "plan again, or pin another schedule or number of stages")
        if self.in_rounds and microbatches % layout.ranks:
            more = -(-microbatches // layout.ranks) * layout.ranks
            raise PlanMismatchError(
                f"schedule {self.name!r} wants a multiple of {layout.ranks} microbatches, one round of the ranks, not "
                f"{microbatches}", f"ask for {more} microbatches, if the batch divides, or pin another schedule")


SCHEDULES: Table[Schedule] = Table("planner.schedules", "schedule")


def tasks_of(name: str, layout: Layout, microbatches: int) -> Timetable:
    """The timetable of the schedule of that name.

    Raises:
      UnknownNameError: there is none.
      PlanMismatchError: it does not run on that layout, or with so many microbatches.
    """
    schedule = SCHEDULES[name]
    schedule.check(layout, microbatches)
    return schedule.tasks(layout, microbatches)


def predecessors(task: Task, stages: int) -> tuple[Task, ...]:
    """The tasks of other stages, or of the same stage and another kind, that must be done before this one can start."""
    if task.phase is Kind.FORWARD:
        return (Task(task.stage - 1, task.microbatch, Kind.FORWARD),) if task.stage else ()
    if task.phase is Kind.WEIGHT_GRADIENT:
        return (Task(task.stage, task.microbatch, Kind.INPUT_GRADIENT),)
    own = Task(task.stage, task.microbatch, Kind.FORWARD)
    return (own,) if task.stage == stages - 1 else (own, Task(task.stage + 1, task.microbatch, task.phase))


def dispatch_order(timetable: Timetable, needs: Callable[[Task], Sequence[Task]]) -> Iterator[Task]:
    """All tasks in one order in which a single driver can start them: ranks in turn, each as soon as it can.

    Args:
      timetable: tasks per rank.
      needs: the tasks that must come before a task, beside those before it on its own rank.

    Raises:
      ValueError: if the ranks wait for each other for ever.
    """
    done: set[Task] = set()
    heads = [0] * len(timetable)
    while any(head < len(tasks) for head, tasks in zip(heads, timetable, strict=True)):
        ready = [r for r, tasks in enumerate(timetable)
                 if heads[r] < len(tasks) and all(t in done for t in needs(tasks[heads[r]]))]
        if not ready:
            waiting = [tasks[head] for head, tasks in zip(heads, timetable, strict=True) if head < len(tasks)]
            raise ValueError(f"the schedule cannot go on: every rank waits, at {waiting}")
        for r in ready:
            task = timetable[r][heads[r]]
            heads[r] += 1
            done.add(task)
            yield task
