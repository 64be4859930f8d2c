"""GPipe: all forwards, then all backwards. Simple, and holds every microbatch's activations.

Source: Huang et al., arXiv:1811.06965. Step time of S equal stages and B microbatches: (B + S - 1)(f + b).
"""

from planner.core.layout import Layout
from planner.schedules.table import SCHEDULES, Kind, Schedule, Task, TaskTimes, Timetable


def tasks(layout: Layout, microbatches: int) -> Timetable:
    """Forwards in order; backwards in order as well, so that gradients are summed as under 1F1B."""
    return tuple(tuple(Task(s, m, phase) for phase in (Kind.FORWARD, Kind.BACKWARD) for m in range(microbatches))
                 for s in range(layout.stages))


def held(rank: int, layout: Layout, microbatches: int) -> int:
    """All of them, on every rank."""
    del rank, layout
    return microbatches


def step_time(layout: Layout, microbatches: int, times: TaskTimes) -> float:
    """See the module."""
    return (microbatches + layout.stages - 1) * times.whole_s


GPIPE = SCHEDULES.register("gpipe")(Schedule("gpipe", True, tasks, held, step_time=step_time))
