"""Forward only: a pipeline for inference. Stages work on successive microbatches; nothing is kept.

Step time of S equal stages and B microbatches: (B + S - 1) f (Alpa, arXiv:2201.12023, section 5.1, without the
backward).
"""

from planner.schedules.table import SCHEDULES, Kind, Schedule, Task, Timetable


def tasks(stages: int, microbatches: int) -> Timetable:
    """Microbatches in order on every stage."""
    return tuple(tuple(Task(s, m, Kind.FORWARD) for m in range(microbatches)) for s in range(stages))


def in_flight(stage: int, stages: int, microbatches: int) -> int:
    """The one at work."""
    del stage, stages
    return min(1, microbatches)


def step_time(stages: int, microbatches: int, forward_s: float, backward_s: float) -> float:
    """See the module; there is no backward."""
    del backward_s
    return (microbatches + stages - 1) * forward_s


FORWARD_ONLY = SCHEDULES.register("forward-only")(Schedule("forward-only", False, tasks, in_flight, step_time))
