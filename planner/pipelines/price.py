"""What a step of chosen stages takes under a schedule: every rank runs the tasks of its stages in order, each when it
can, at the prices that the search compares.

For equal stages under 1F1B that is Alpa's equation (OSDI'22, eq. 2), otherwise it is at most that. Nothing hides beside
other layers' work here, and hand-overs keep the receiver busy: what a finished plan may gain by that, `simulate/`
tells, which shares no code with this. Long steps are periodic once the pipeline is full, so that what more microbatches
take is read off a few.

In: seconds of the tasks of every stage. Out: seconds of a step, and the bubble.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from planner.core.layout import Layout
from planner.pipelines.slicings import Ints
from planner.pipelines.stages import Sharing
from planner.schedules import SCHEDULES, Kind, Schedule, TaskTimes
from planner.solvers.large.compiled import compiled

TASKS = 12_000
"""Tasks that are run one by one; longer steps are taken to be periodic by then. [chosen: a tenth of a second]"""


@dataclass(frozen=True)
class Pipeline:
    """What is to be priced: a schedule, a layout, per stage the seconds of its tasks and of what it does once a
    step."""

    schedule: str
    layout: Layout
    times: tuple[TaskTimes, ...]
    batch_s: tuple[float, ...]
    microbatches: int

    @property
    def busy_s(self) -> tuple[float, ...]:
        """Per rank, seconds that it works."""
        each = [self.microbatches * t.whole_s + once for t, once in zip(self.times, self.batch_s, strict=True)]
        return tuple(sum(each[s] for s in self.layout.stages_of(r)) for r in range(self.layout.ranks))


@dataclass(frozen=True)
class Price:
    """Seconds of a step, and the share of the ranks' time in which they wait for each other."""

    step_time_s: float
    bubble: float


def price(pipeline: Pipeline, sharing: Sharing | None = None) -> Price:
    """See the module. `sharing`: cores that the ranks share; None where every device has its own.

    Raises:
      PlanMismatchError: the schedule does not run on that layout, or with so many microbatches.
    """
    schedule, layout = SCHEDULES[pipeline.schedule], pipeline.layout
    schedule.check(layout, pipeline.microbatches)
    path_s = _step_s(schedule, pipeline)
    busy = pipeline.busy_s
    parts = sharing.parts if sharing else [1 / layout.ranks] * layout.ranks
    work_s = sum(b * part for b, part in zip(busy, parts, strict=True))
    if sharing is not None:
        path_s = sharing.time_s(path_s, work_s)
    return Price(path_s, max(0.0, 1.0 - work_s / path_s) if path_s else 0.0)


def _step_s(schedule: Schedule, pipeline: Pipeline) -> float:
    layout, count = pipeline.layout, pipeline.microbatches
    if layout.stages == 1:
        return count * pipeline.times[0].whole_s + pipeline.batch_s[0]
    period = 4 * layout.ranks
    most = max(TASKS // (layout.stages * len(schedule.kinds)), 2 * layout.stages)
    first = most + (count - most) % layout.ranks
    if count <= first + period:
        return _run(schedule, pipeline, count)
    before, after = _run(schedule, pipeline, first), _run(schedule, pipeline, first + period)
    return after + (count - first - period) * (after - before) / period


def _run(schedule: Schedule, pipeline: Pipeline, microbatches: int) -> float:
    """The end of the last rank."""
    layout = pipeline.layout
    each = {Kind.FORWARD: [t.forward_s for t in pipeline.times], Kind.BACKWARD: [t.backward_s for t in pipeline.times],
            Kind.INPUT_GRADIENT: [t.input_s for t in pipeline.times],
            Kind.WEIGHT_GRADIENT: [t.weight_s for t in pipeline.times]}
    free, seconds = np.zeros(layout.ranks), np.array([each[kind] for kind in schedule.kinds])
    _work_off(*_orders(schedule.name, layout, microbatches), seconds, microbatches, free)
    ends: list[float] = free.tolist()
    return max(ends[r] + sum(pipeline.batch_s[s] for s in layout.stages_of(r)) for r in range(layout.ranks))


@lru_cache(maxsize=32)
def _orders(name: str, layout: Layout, microbatches: int) -> tuple[Ints, Ints]:
    """The tasks of all ranks, one rank after the other, each as the number (kind, stage, microbatch); and where those
    of each rank begin."""
    schedule = SCHEDULES[name]
    number = {kind: n * layout.stages for n, kind in enumerate(schedule.kinds)}
    orders = schedule.tasks(layout, microbatches)
    tasks = [(number[t.phase] + t.stage) * microbatches + t.microbatch for order in orders for t in order]
    return np.array(tasks, dtype=np.int64), np.cumsum([0, *map(len, orders)], dtype=np.int64)


@compiled
def _work_off(tasks: Ints, begins: Ints, seconds: NDArray[np.float64], microbatches: int, free: NDArray[np.float64]
              ) -> None:
    """`free`: when each rank is done with its tasks, of `seconds` by kind and stage. What a task waits for is as
    `schedules.predecessors` says; a rank that waits is looked at again when the others have gone on."""
    kinds, stages = seconds.shape
    ends = np.full(kinds * stages * microbatches, -1.0)
    heads, moved = begins[:-1].copy(), True
    while moved:
        moved = False
        for rank in range(len(heads)):
            while heads[rank] < begins[rank + 1]:
                task = tasks[heads[rank]]
                kind, stage = task // (stages * microbatches), task // microbatches % stages
                start, ready = free[rank], True
                if kind == 0 and stage > 0:
                    end = ends[task - microbatches]
                    start, ready = max(start, end), end >= 0
                elif kind > 0:
                    end = ends[task - stages * microbatches]  # of a backward its forward, of the second part the first
                    start, ready = max(start, end), end >= 0
                    if kind == 1 and stage < stages - 1:
                        end = ends[task + microbatches]
                        start, ready = max(start, end), ready and end >= 0
                if not ready:
                    break
                ends[task] = free[rank] = start + seconds[kind, stage]
                heads[rank] += 1
                moved = True


def stage_times(parts: Sequence[float], weight_s: float, call_s: float, carried_s: float, *, splits: bool) -> TaskTimes:
    """The tasks of one stage.

    Args:
      parts: forward and backward seconds of its layers.
      weight_s: of the backward, what may be apart.
      call_s: starting one program.
      carried_s: taking in a microbatch's activations; sending its cotangents back takes as long.
      splits: whether the backward is in two.
    """
    forward, backward = parts[0] + call_s + carried_s, parts[1] + call_s + carried_s
    return TaskTimes(forward, backward - weight_s, weight_s + call_s) if splits else TaskTimes(forward, backward)
