"""Forward only: a pipeline for inference. Stages work on successive microbatches; nothing is kept.

Step time of S equal stages and B microbatches: (B + S - 1) f (Alpa, arXiv:2201.12023, section 5.1, without the
backward).
"""

from planner.core.layout import Layout
from planner.schedules.table import SCHEDULES, Kind, Schedule, Task, TaskTimes, Timetable


def tasks(layout: Layout, microbatches: int) -> Timetable:
    """Microbatches in order on every stage."""
    return tuple(tuple(Task(s, m, Kind.FORWARD) for m in range(microbatches)) for s in range(layout.stages))


def held(rank: int, layout: Layout, microbatches: int) -> int:
    """The one at work."""
    del rank, layout
    return min(1, microbatches)


def step_time(layout: Layout, microbatches: int, times: TaskTimes) -> float:
    """See the module; there is no backward."""
    return (microbatches + layout.stages - 1) * times.forward_s


FORWARD_ONLY = SCHEDULES.register("forward-only")(Schedule("forward-only", False, tasks, held, step_time=step_time))
