"""A plan's timetable by event simulation: when each stage does what, and how many microbatches it holds.

Each stage runs its tasks in the schedule's order; a task starts when the stage is free and what it needs has been made.
A hand-over between stages keeps the receiver of the activations busy, both ways, as the search charges it. The driver
does dispatch transfers ahead, and copies between GPUs run beside their arithmetic; but under 1F1B stage 0 has only as
many microbatches on their way as there are S stages, so that even transfers that cost no arithmetic make every
microbatch wait: (1 - 1/S) of a hand-over where all stages are equal (a test shows it). Under GPipe, and in inference,
they could hide, and both the search and this are on the safe side.

In: a `PlanRecord`, or bare times per stage. Out: a `Timeline`. It knows nothing of how the search prices a pipeline, so
that the two can be held against each other: they agree exactly for equal stages.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from planner.core.plan import PlanRecord, StagePlan
from planner.schedules import SCHEDULES, Kind, Schedule, Task, dispatch_order, predecessors


@dataclass(frozen=True, slots=True)
class StageTime:
    """Seconds of one stage: per microbatch forward and backward, per batch at the end, and per microbatch and way for
    handing over what comes from the stage before, and cotangents back to it.

    `link_s` is a hand-over to the next stage (each way, per microbatch) that keeps neither of them busy.
    """

    forward_s: float
    backward_s: float
    batch_s: float = 0.0
    send_s: float = 0.0
    link_s: float = 0.0


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
    """The timeline of a plan, from its predicted times."""
    trains = SCHEDULES[record.schedule].trains
    return run(SCHEDULES[record.schedule], [_stage_time(record, s, trains=trains) for s in record.stages],
               record.microbatches)


def forward_share(record: PlanRecord, stage: StagePlan) -> float:
    """Part of a stage's arithmetic under training that is its forward, by FLOPs (1/3 where matrix products rule).

    The record has the forward FLOPs of every layer and those of the whole step; forward to backward is as in the whole,
    the update counted with the backward, and recomputed layers add their forward to the backward.
    """
    whole = record.microbatches * sum(layer.flops for layer in record.layers)
    mine = sum(layer.flops for layer in record.layers[slice(*stage.layers)])
    if not whole or not mine:
        return 1 / 3  # nothing is known: a backward multiplies twice where the forward multiplies once
    again = sum(record.layers[n].flops for n in stage.recompute) / mine
    return 1 / (max(record.model_flops / whole, 1.0) + again)


def _stage_time(record: PlanRecord, stage: StagePlan, *, trains: bool) -> StageTime:
    time = stage.time
    if not trains:
        return StageTime(time.microbatch_s, 0.0, time.batch_s, stage.send_s)
    moves = time.collective_s + time.reshard_s
    ahead = sum(c.time_s for c in stage.collectives if c.per == "microbatch" and c.phase == "forward")
    forward = forward_share(record, stage) * time.compute_s + min(ahead, moves)
    return StageTime(forward, time.microbatch_s - forward, time.batch_s, stage.send_s / 2)


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
        arrived = [end[t] + (times[min(t.stage, s)].link_s if t.stage != s else 0.0) for t in needs(task)]
        start = max(free[s], *arrived) if arrived else free[s]
        work = time.forward_s if task.phase is Kind.FORWARD else time.backward_s
        free[s] = end[task] = start + work + time.send_s
        intervals.append(Interval(s, task, start, free[s]))
        held[s] += 1 if task.phase is Kind.FORWARD else -1
        most[s] = max(most[s], held[s])
        if not schedule.trains:
            held[s] = 0
    intervals += [Interval(s, None, free[s], free[s] + t.batch_s) for s, t in enumerate(times) if t.batch_s]
    return Timeline(tuple(intervals), tuple(most))
