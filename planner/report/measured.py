"""What a profiler saw of some steps, as tasks of a plan's stages: to be held against the simulated timeline.

A task is one call of a stage's program (`core.programs`). It is at work from when its first device begins to when its
last one ends, and each device is busy from its first to its last operator of the call. Microbatches are told by the
order of calls, which is that of the plan's timetable.

In: a `PlanRecord`, executions of programs on devices. Out: `MeasuredStep`s, whose times count from the first task's
start.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median_low
from types import MappingProxyType

from planner.core import programs
from planner.core.plan import PlanRecord
from planner.errors import RunError
from planner.schedules import SCHEDULES, Kind, tasks_of

KINDS: Mapping[str, Kind] = MappingProxyType({
    programs.FORWARD: Kind.FORWARD, programs.BACKWARD: Kind.BACKWARD, programs.INPUT_GRADIENT: Kind.INPUT_GRADIENT,
    programs.WEIGHT_GRADIENT: Kind.WEIGHT_GRADIENT})
"""Programs that run once per microbatch."""


@dataclass(frozen=True, slots=True)
class Execution:
    """One call of a program on one device. Calls of a program are told apart, and ordered, by `run`."""

    device: int
    program: str
    run: int
    start_s: float
    end_s: float


HOST = -1
"""The device of an execution that is the host's call of a program: from the call to when it has returned."""


@dataclass(frozen=True, slots=True)
class MeasuredTask:
    """One call of a stage's program, on all its devices; `busy_s` is the mean over them."""

    stage: int
    work: str
    microbatch: int | None
    start_s: float
    end_s: float
    busy_s: float


@dataclass(frozen=True)
class MeasuredStep:
    """The tasks of one step, in order of their starts; times in seconds from the first one's.

    Attributes:
      tasks: on devices.
      calls: of their programs, on the host; before the first task's start times are negative.
    """

    tasks: tuple[MeasuredTask, ...]
    calls: tuple[MeasuredTask, ...] = ()

    @property
    def step_time_s(self) -> float:
        """From the first task's start to the last one's end."""
        return max(t.end_s for t in self.tasks)

    def busy_s(self, stages: Sequence[int]) -> float:
        """Seconds that each device of a rank works for these stages, in the mean."""
        return sum(t.busy_s for t in self.tasks if t.stage in stages)


def measured_steps(record: PlanRecord, executions: Sequence[Execution], count: int) -> tuple[MeasuredStep, ...]:
    """The steps that were profiled.

    Args:
      record: the plan they ran under.
      executions: of all programs; those of no stage are left out.
      count: how many steps they are of.

    Raises:
      RunError: the profile is not of so many whole steps: the profiler has lost some, or there are none.
    """
    ours = [(e, named) for e in executions if (named := programs.named_program(e.program)) is not None]
    if all(e.device == HOST for e, _ in ours):
        raise RunError("the profile has no program of the plan", "this backend's profiler does not tell programs; run "
                       "without a trace")
    order = _microbatches(record)
    steps: list[tuple[list[MeasuredTask], list[MeasuredTask]]] = [([], []) for _ in range(count)]
    groups: dict[tuple[str, bool], list[Execution]] = {}
    for e, _ in ours:
        groups.setdefault((e.program, e.device == HOST), []).append(e)
    for (name, host), mine in groups.items():
        for step, task in _tasks(name, mine, count, order):
            steps[step][host].append(task)
    return tuple(_from_zero(*step) for step in steps)


def _tasks(name: str, mine: Sequence[Execution], count: int, order: Mapping[tuple[int, Kind], Sequence[int]]
           ) -> Iterator[tuple[int, MeasuredTask]]:
    """(step, task) for every call of one program."""
    found = programs.named_program(name)
    assert found is not None
    stage, work = found
    by_device: dict[int, list[Execution]] = {}
    for e in sorted(mine, key=lambda e: (e.run, e.start_s)):
        by_device.setdefault(e.device, []).append(e)
    each = _calls_a_step(by_device, count, name)
    for n, together in enumerate(zip(*by_device.values(), strict=True)):
        step, place = divmod(n, each)
        microbatch = order[stage, KINDS[work]][place] if work in KINDS else None
        busy_s = sum(e.end_s - e.start_s for e in together) / len(together)
        yield step, MeasuredTask(stage, work, microbatch, min(e.start_s for e in together),
                                 max(e.end_s for e in together), busy_s)


def typical(steps: Sequence[MeasuredStep]) -> MeasuredStep:
    """The one that took the median time (the shorter of the middle two)."""
    middle = median_low(step.step_time_s for step in steps)
    return next(step for step in steps if step.step_time_s == middle)


def _calls_a_step(by_device: Mapping[int, Sequence[Execution]], count: int, name: str) -> int:
    found = {len(calls) for calls in by_device.values()}
    if len(found) != 1 or min(found) % count:
        raise RunError(f"the profile has {' or '.join(map(str, sorted(found)))} calls of {name!r} in {count} steps",
                       "profile fewer steps: profilers drop events when there are too many")
    return found.pop() // count


def _microbatches(record: PlanRecord) -> dict[tuple[int, Kind], list[int]]:
    """Per stage and kind of task, the microbatches in the order of the timetable."""
    found: dict[tuple[int, Kind], list[int]] = {}
    if len(record.stages) == 1 or record.schedule not in SCHEDULES:
        return found
    for tasks in tasks_of(record.schedule, record.layout, record.microbatches):
        for task in tasks:
            found.setdefault((task.stage, task.phase), []).append(task.microbatch)
    return found


def _from_zero(tasks: Sequence[MeasuredTask], calls: Sequence[MeasuredTask]) -> MeasuredStep:
    zero = min(t.start_s for t in tasks)

    def moved(found: Sequence[MeasuredTask]) -> tuple[MeasuredTask, ...]:
        shifted = [replace(t, start_s=t.start_s - zero, end_s=t.end_s - zero) for t in found]
        return tuple(sorted(shifted, key=lambda t: (t.start_s, t.stage)))

    return MeasuredStep(moved(tasks), moved(calls))
