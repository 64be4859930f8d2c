"""1F1B: each stage does a few forwards ahead, then alternates one forward and one backward. GPipe's time, less memory.

Source: PipeDream-Flush (Narayanan et al., arXiv:2006.09503, section 3.2; arXiv:2104.04473, section 2.2.1). Stage s of S
holds min(S - s, B) microbatches. Step time of equal stages: (B + S - 1)(f + b).
"""

from planner.core.layout import Layout
from planner.schedules.table import SCHEDULES, Kind, Schedule, Task, TaskTimes, Timetable


def tasks(layout: Layout, microbatches: int) -> Timetable:
    """Stage s: S - s - 1 forwards ahead, then pairs of forward and backward, then the backwards that are left."""
    return tuple(_stage(s, held(s, layout, microbatches) - 1, microbatches) for s in range(layout.stages))


def _stage(stage: int, ahead: int, microbatches: int) -> tuple[Task, ...]:
    order = [Task(stage, m, Kind.FORWARD) for m in range(ahead)]
    for m in range(microbatches):
        if m + ahead < microbatches:
            order.append(Task(stage, m + ahead, Kind.FORWARD))
        order.append(Task(stage, m, Kind.BACKWARD))
    return tuple(order)


def held(rank: int, layout: Layout, microbatches: int) -> int:
    """As many as there are stages from here to the end."""
    return min(layout.stages - rank, microbatches)


def step_time(layout: Layout, microbatches: int, times: TaskTimes) -> float:
    """See the module."""
    return (microbatches + layout.stages - 1) * times.whole_s


ONE_F_ONE_B = SCHEDULES.register("1f1b")(Schedule("1f1b", True, tasks, held, step_time=step_time))
