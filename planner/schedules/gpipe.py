"""GPipe: all forwards, then all backwards. Simple, and holds every microbatch's activations.

Source: Huang et al., arXiv:1811.06965. Step time of S equal stages and B microbatches: (B + S - 1)(f + b).
"""

from planner.schedules.table import SCHEDULES, Kind, Schedule, Task, Timetable


def tasks(stages: int, microbatches: int) -> Timetable:
    """Forwards in order; backwards in order as well, so that gradients are summed as under 1F1B."""
    return tuple(tuple(Task(s, m, phase) for phase in Kind for m in range(microbatches)) for s in range(stages))


def in_flight(stage: int, stages: int, microbatches: int) -> int:
    """All of them, on every stage."""
    del stage, stages
    return microbatches


def step_time(stages: int, microbatches: int, forward_s: float, backward_s: float) -> float:
    """See the module."""
    return (microbatches + stages - 1) * (forward_s + backward_s)


GPIPE = SCHEDULES.register("gpipe")(Schedule("gpipe", True, tasks, in_flight, step_time))
