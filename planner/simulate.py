"""A plan's timetable by event simulation: when each stage does what, and how many microbatches it holds.

Each stage runs its tasks in the schedule's order; a task starts when the stage is free and what it needs has arrived.
In: a `PlanRecord`, or bare times per stage. Out: a `Timeline`. It knows nothing of how the search prices a pipeline, so
that the two can be held against each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from planner.core.plan import PlanRecord
from planner.schedules import SCHEDULES, Kind, Schedule, Task, dispatch_order, predecessors

FORWARD_SHARE = 1 / 3
"""Of a microbatch's time under training: a backward multiplies twice where the forward multiplies once."""


@dataclass(frozen=True, slots=True)
class StageTime:
    """Seconds of one stage: per microbatch forward and backward, per batch at the end, and sending to its neighbour
    (each way, per microbatch; the links work beside the devices)."""

    forward_s: float
    backward_s: float
    batch_s: float = 0.0
    send_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Interval:
    """A task at work; the update after all microbatches has `task` None."""

    stage: int
    task: Task | None
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Timeline:
    """When everything happened. `in_flight`: per stage, the most microbatches whose activations were held."""

    intervals: tuple[Interval, ...]
    in_flight: tuple[int, ...]

    @property
    def step_time_s(self) -> float:
        """End of the last interval."""
        return max((i.end_s for i in self.intervals), default=0.0)

    def busy_s(self, stage: int) -> float:
        """Seconds that a stage works."""
        return sum(i.end_s - i.start_s for i in self.intervals if i.stage == stage)

    def bubble(self) -> float:
        """Share of the stages' time in which they wait."""
        stages = len(self.in_flight)
        whole = stages * self.step_time_s
        return 1.0 - sum(self.busy_s(s) for s in range(stages)) / whole if whole else 0.0


def simulate(record: PlanRecord) -> Timeline:
    """The timeline of a plan, from its predicted times. Training splits a microbatch's time by `FORWARD_SHARE`."""
    share = FORWARD_SHARE if record.kind == "train" else 1.0
    times = [StageTime(share * s.time.microbatch_s, (1.0 - share) * s.time.microbatch_s, s.time.batch_s, s.send_s / 2)
             for s in record.stages]
    return run(SCHEDULES[record.schedule], times, record.microbatches)


def run(schedule: Schedule, times: Sequence[StageTime], microbatches: int) -> Timeline:
    """Run a schedule over stages with these times."""
    stages = len(times)
    free, end = [0.0] * stages, dict[Task, float]()
    held, most = [0] * stages, [0] * stages
    intervals: list[Interval] = []

    def needs(task: Task) -> tuple[Task, ...]:
        return predecessors(task, stages)

    for task in dispatch_order(schedule.tasks(stages, microbatches), needs):
        s, time = task.stage, times[task.stage]
        arrived = [end[t] + (times[min(t.stage, s)].send_s if t.stage != s else 0.0) for t in needs(task)]
        start = max(free[s], *arrived) if arrived else free[s]
        free[s] = end[task] = start + (time.forward_s if task.phase is Kind.FORWARD else time.backward_s)
        intervals.append(Interval(s, task, start, free[s]))
        held[s] += 1 if task.phase is Kind.FORWARD else -1
        most[s] = max(most[s], held[s])
        if not schedule.trains:
            held[s] = 0
    intervals += [Interval(s, None, free[s], free[s] + t.batch_s) for s, t in enumerate(times) if t.batch_s]
    return Timeline(tuple(intervals), tuple(most))
