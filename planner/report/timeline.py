"""When every stage does what, from the plan's own predicted times and the task order of its schedule.

In: a `PlanRecord`. Out: busy intervals of each stage. A task starts when its stage is free and what it needs is there. The
record predicts forward and backward of a microbatch together; a backward is taken to be twice its forward, with the
forward run again where layers are recomputed (Narayanan et al., arXiv:2104.04473, §2.2).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from planner.core.plan import PlanRecord, StagePlan
from planner.schedules import Task, tasks_of

FORWARD_PART = 1 / 3
"""Part of a microbatch's time that is forward, if nothing is recomputed."""


@dataclass(frozen=True)
class Bar:
    """A stage at work from `start_s` to `end_s`; `microbatch` is None for the update."""

    stage: int
    start_s: float
    end_s: float
    phase: str
    microbatch: int | None


def timeline(record: PlanRecord) -> tuple[Bar, ...]:
    """The busy intervals of one step, by stage and then by time."""
    order = tasks_of(record.schedule, len(record.stages), record.microbatches)
    return place(order, record.stages)


def place(order: Sequence[Sequence[Task]], stages: Sequence[StagePlan]) -> tuple[Bar, ...]:
    """Start every task of the order (per stage, its tasks) as early as it can be, and the updates after them.

    Raises:
      ValueError: the order waits for itself.
    """
    done: dict[tuple[str, int, int], float] = {}
    bars: list[list[Bar]] = [[] for _ in stages]
    position = [0] * len(stages)
    moved = True
    while moved:
        moved = False
        for s, tasks in enumerate(order):
            while position[s] < len(tasks):
                task = tasks[position[s]]
                phase = str(task.phase)
                need = _needs(phase, s, task.microbatch, len(stages))
                if any(key not in done for key in need):
                    break
                free = bars[s][-1].end_s if bars[s] else 0.0
                start = max([free, *(done[key] for key in need)])
                end = start + _duration_s(stages[s], phase, alone=_forward_only(order))
                done[phase, s, task.microbatch] = end
                bars[s].append(Bar(s, start, end, phase, task.microbatch))
                position[s] += 1
                moved = True
    if any(position[s] < len(tasks) for s, tasks in enumerate(order)):
        raise ValueError("the schedule's tasks wait for each other")
    for s, stage in enumerate(stages):
        if stage.time.batch_s and bars[s]:
            end = bars[s][-1].end_s
            bars[s].append(Bar(s, end, end + stage.time.batch_s, "update", None))
    return tuple(bar for row in bars for bar in row)


def _needs(phase: str, stage: int, microbatch: int, stages: int) -> list[tuple[str, int, int]]:
    if phase == "forward":
        return [("forward", stage - 1, microbatch)] if stage else []
    own = ("forward", stage, microbatch)
    return [own, ("backward", stage + 1, microbatch)] if stage + 1 < stages else [own]


def _duration_s(stage: StagePlan, phase: str, *, alone: bool) -> float:
    whole = stage.time.microbatch_s + stage.send_s
    if alone:
        return whole
    again = len(stage.recompute) / max(1, stage.layers[1] - stage.layers[0])
    forward = whole * FORWARD_PART / (1 + again * FORWARD_PART)
    return forward if phase == "forward" else whole - forward


def _forward_only(order: Sequence[Sequence[Task]]) -> bool:
    return all(str(task.phase) == "forward" for tasks in order for task in tasks)
