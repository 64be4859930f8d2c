"""A plan's step by event simulation: every stage runs its tasks in the schedule's order, each when it can.

A task starts when its stage is free and what it needs has been made and has come. Of a hand-over between stages, the
part that keeps the receiver busy is charged to the receiver, both ways, as the search charges all of it; the part that
may hide (`Overlap.hand_over`) goes over the receiver's link, one after another each way. The driver does dispatch
transfers ahead, and copies between GPUs run beside their arithmetic; but under 1F1B stage 0 has only as many
microbatches on their way as there are S stages, so that even transfers that cost no arithmetic make every microbatch
wait: (1 - 1/S) of a hand-over where all stages are equal (a test shows it). Under GPipe, and in inference, they hide.

Where devices share cores, those that work run faster the more of the others wait: all work is done at the speed of the
mean number of devices that work at a time (`costs.sharing`).

In: a `PlanRecord`, or `StageWork` per stage. Out: a `Timeline`. It knows nothing of how the search prices a pipeline,
so that the two can be held against each other: they agree exactly for equal stages of equal layers whose communication
finds enough kernels to hide behind, and no hand-over that hides.
"""

from collections import deque
from collections.abc import Sequence

from planner.core.hardware import Overlap
from planner.core.plan import PlanRecord
from planner.costs.sharing import sharing_speed
from planner.schedules import SCHEDULES, Kind, Schedule, Task, predecessors
from planner.simulate.stage import BACKWARD, FORWARD, StageRun
from planner.simulate.timeline import Columns, Timeline
from planner.simulate.work import StageWork, faster, stage_works

ALONE = "1f1b"
"""How one stage trains, whatever its schedule is called: it runs forward and backward of one microbatch after another,
and holds the activations of one."""


def simulate(record: PlanRecord, *, intervals: bool = True) -> Timeline:
    """The timeline of a plan, from its predicted times.

    Args:
      record: the plan.
      intervals: keep every interval; without, sums and memory only, which takes less time and room.

    Raises:
      UnknownNameError: there is no schedule of that name.
    """
    schedule = SCHEDULES[record.schedule]
    if len(record.stages) == 1 and schedule.trains:
        schedule = SCHEDULES[ALONE]
    works, alone = stage_works(record), record.cluster.device.alone
    if alone > 1:
        line = run(schedule, works, record.microbatches, record.cluster.overlap, intervals=False)
        used = sum(line.busy_s(s.index) * len(s.devices) for s in record.stages) / record.device_count
        if used:
            speed = sharing_speed(line.step_time_s / used, record.device_count, alone)
            works = tuple(faster(w, speed) for w in works)
    return run(schedule, works, record.microbatches, record.cluster.overlap, intervals=intervals)


def run(schedule: Schedule, works: Sequence[StageWork], microbatches: int, overlap: Overlap | None = None, *,
        intervals: bool = True) -> Timeline:
    """Run a schedule over stages with this work; without an overlap nothing hides.

    Raises:
      ValueError: if the stages wait for each other for ever.
    """
    overlap, columns = overlap or Overlap(), Columns() if intervals else None
    runs = [StageRun.of(n, w, overlap, columns, trains=schedule.trains) for n, w in enumerate(works)]
    _run_tasks(schedule, runs, microbatches)
    end = max((r.finish(overlap) for r in runs), default=0.0)
    return Timeline(tuple(r.line() for r in runs), end, columns)


def _run_tasks(schedule: Schedule, runs: Sequence[StageRun], microbatches: int) -> None:
    """Every task of every stage: a stage goes on until it needs a task that is not done, and again when that is."""
    orders = schedule.tasks(len(runs), microbatches)
    last = [_last_backward(order) for order in orders]
    heads, ready = [0] * len(runs), deque(range(len(runs)))
    ends: dict[Task, float] = {}
    waiting: dict[Task, list[int]] = {}  # for a task: stages
    links = [[0.0, 0.0] for _ in runs]  # per stage and way, when the link is free
    while ready:
        s = ready.popleft()
        for head in range(heads[s], len(orders[s])):
            task = orders[s][head]
            needs = predecessors(task, len(runs))
            missing = next((t for t in needs if t not in ends), None)
            if missing is not None:
                waiting.setdefault(missing, []).append(s)
                break
            ends[task] = _do(runs, links[s], task, [(t.stage, ends[t]) for t in needs], last=head == last[s])
            ready.extend(waiting.pop(task, ()))
            heads[s] = head + 1
    stuck = [order[head] for order, head in zip(orders, heads, strict=True) if head < len(order)]
    if stuck:
        raise ValueError(f"the schedule cannot go on: every stage waits, at {stuck}")


def _last_backward(order: Sequence[Task]) -> int:
    return max((n for n, task in enumerate(order) if task.phase is Kind.BACKWARD), default=-1)


def _do(runs: Sequence[StageRun], link: list[float], task: Task, needs: Sequence[tuple[int, float]], *, last: bool
        ) -> float:
    """Run one task once its needs, (stage, end) of each, are there; its end."""
    s = task.stage
    stage, way = runs[s], FORWARD if task.phase is Kind.FORWARD else BACKWARD
    start = stage.free_s
    for other, end in needs:
        carried = runs[max(s, other)].work.link_s if other != s else 0.0
        if not carried:
            start = max(start, end)
            continue
        sent = max(end, link[way])
        link[way] = sent + carried
        stage.received(task.microbatch, sent, carried, waited=max(0.0, link[way] - max(stage.free_s, sent)))
        start = max(start, link[way])
    return stage.do(way, task.microbatch, start, last=last)
