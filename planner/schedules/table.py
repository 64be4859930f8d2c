"""What a schedule is: a list of tasks per stage, and what is known of it in closed form.

A file in this folder registers a `Schedule`; nothing else is needed, and the contract tests run over it. In: the number
of stages and microbatches. Out: tasks, microbatches in flight, step time.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from planner.registry import Table


class Kind(StrEnum):
    """What a task does with a microbatch."""

    FORWARD = "forward"
    BACKWARD = "backward"


@dataclass(frozen=True, slots=True)
class Task:
    """One microbatch through one stage, one way."""

    stage: int
    microbatch: int
    phase: Kind


Timetable = tuple[tuple[Task, ...], ...]
"""Per stage, its tasks in the order it runs them."""


@dataclass(frozen=True)
class Schedule:
    """One way to run a pipeline.

    Attributes:
      name: as in `PlanRecord.schedule`.
      trains: whether it has backward tasks.
      tasks: `(stages, microbatches) -> Timetable`.
      in_flight: `(stage, stages, microbatches)` -> most microbatches that have been forward through the stage and not
        yet backward; their activations are held.
      step_time: `(stages, microbatches, forward_s, backward_s)` -> seconds for equal stages, communication free.
    """

    name: str
    trains: bool
    tasks: Callable[[int, int], Timetable]
    in_flight: Callable[[int, int, int], int]
    step_time: Callable[[int, int, float, float], float]


SCHEDULES: Table[Schedule] = Table("planner.schedules", "schedule")


def tasks_of(name: str, stages: int, microbatches: int) -> Timetable:
    """The timetable of the schedule of that name.

    Raises:
      UnknownNameError: there is none.
    """
    return SCHEDULES[name].tasks(stages, microbatches)


def predecessors(task: Task, stages: int) -> tuple[Task, ...]:
    """The tasks of other stages, or of the other phase, that must be done before this one can start."""
    if task.phase is Kind.FORWARD:
        return (Task(task.stage - 1, task.microbatch, Kind.FORWARD),) if task.stage else ()
    own = Task(task.stage, task.microbatch, Kind.FORWARD)
    return (own,) if task.stage == stages - 1 else (own, Task(task.stage + 1, task.microbatch, Kind.BACKWARD))


def dispatch_order(timetable: Timetable, needs: Callable[[Task], Sequence[Task]]) -> Iterator[Task]:
    """All tasks in one order in which a single driver can start them: stages in turn, each as soon as it can.

    Args:
      timetable: tasks per stage.
      needs: the tasks that must come before a task, beside those before it in its own stage.

    Raises:
      ValueError: if the stages wait for each other for ever.
    """
    done: set[Task] = set()
    heads = [0] * len(timetable)
    while any(head < len(tasks) for head, tasks in zip(heads, timetable, strict=True)):
        ready = [s for s, tasks in enumerate(timetable)
                 if heads[s] < len(tasks) and all(t in done for t in needs(tasks[heads[s]]))]
        if not ready:
            waiting = [tasks[head] for head, tasks in zip(heads, timetable, strict=True) if head < len(tasks)]
            raise ValueError(f"the schedule cannot go on: every stage waits, at {waiting}")
        for s in ready:
            task = timetable[s][heads[s]]
            heads[s] += 1
            done.add(task)
            yield task
