"""1F1B: each stage does a few forwards ahead, then alternates one forward and one backward. GPipe's time, less memory.

Source: PipeDream-Flush (Narayanan et al., arXiv:2006.09503, section 3.2; arXiv:2104.04473, section 2.2.1). Stage s of S
holds min(S - s, B) microbatches. Step time of equal stages: (B + S - 1)(f + b).
"""

from planner.schedules.table import SCHEDULES, Kind, Schedule, Task, Timetable


def tasks(stages: int, microbatches: int) -> Timetable:
    """Stage s: S - s - 1 forwards ahead, then pairs of forward and backward, then the backwards that are left."""
    return tuple(_stage(s, in_flight(s, stages, microbatches) - 1, microbatches) for s in range(stages))


def _stage(stage: int, ahead: int, microbatches: int) -> tuple[Task, ...]:
    order = [Task(stage, m, Kind.FORWARD) for m in range(ahead)]
    for m in range(microbatches):
        if m + ahead < microbatches:
            order.append(Task(stage, m + ahead, Kind.FORWARD))
        order.append(Task(stage, m, Kind.BACKWARD))
    return tuple(order)


def in_flight(stage: int, stages: int, microbatches: int) -> int:
    """As many as there are stages from here to the end."""
    return min(stages - stage, microbatches)


def step_time(stages: int, microbatches: int, forward_s: float, backward_s: float) -> float:
    """See the module."""
    return (microbatches + stages - 1) * (forward_s + backward_s)


ONE_F_ONE_B = SCHEDULES.register("1f1b")(Schedule("1f1b", True, tasks, in_flight, step_time))
