"""ZB-H1: 1F1B with the backward in two, the weight gradients put off so far that they fill the end. About a third of
the bubble of 1F1B, in the memory that its first stage takes.

Stage s of S does S - s - 1 forwards ahead as under 1F1B, and runs the weight gradient of a microbatch s microbatches
after its input gradient; those that are left come last. Every stage holds min(S, B) microbatches between forward and
weight gradient. Step time of equal stages:

    B(f + i + w) + (S - 1)(f + i) - (min(B, S) - 1) min(f, i, w)

which is (S - 1)(f + i - w) of waiting where w is the least and B >= S. The paper gives that; the rest was found and is
tested by simulation.

Source: Qi et al., arXiv:2401.10241, section 2.1.
"""

from planner.core.layout import Layout
from planner.schedules.table import SCHEDULES, Kind, Schedule, Task, TaskTimes, Timetable


def tasks(layout: Layout, microbatches: int) -> Timetable:
    """See the module."""
    return tuple(_stage(s, min(layout.stages - s, microbatches) - 1, microbatches) for s in range(layout.stages))


def _stage(stage: int, ahead: int, microbatches: int) -> tuple[Task, ...]:
    order = [Task(stage, m, Kind.FORWARD) for m in range(ahead)]
    for m in range(microbatches):
        if m + ahead < microbatches:
            order.append(Task(stage, m + ahead, Kind.FORWARD))
        order.append(Task(stage, m, Kind.INPUT_GRADIENT))
        if m >= stage:
            order.append(Task(stage, m - stage, Kind.WEIGHT_GRADIENT))
    left = range(max(0, microbatches - stage), microbatches)
    return (*order, *(Task(stage, m, Kind.WEIGHT_GRADIENT) for m in left))


def held(rank: int, layout: Layout, microbatches: int) -> int:
    """As many on every rank as the first stage of 1F1B holds."""
    del rank
    return min(layout.stages, microbatches)


def step_time(layout: Layout, microbatches: int, times: TaskTimes) -> float:
    """See the module."""
    f, i, w = times.forward_s, times.input_s, times.weight_s
    more = layout.stages - 1
    return microbatches * times.whole_s + more * (f + i) - min(microbatches - 1, more) * min(f, i, w)


ZB_H1 = SCHEDULES.register("zb-h1")(Schedule("zb-h1", True, tasks, held, splits_backward=True, step_time=step_time))
