"""A plan's step by event simulation: every rank runs the tasks of its stages in the schedule's order, each when it can.

A task starts when its rank is free and what it needs has been made and has come. Of a hand-over between stages, the
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
from planner.core.layout import Layout, Placement, placed
from planner.core.plan import PlanRecord
from planner.costs.sharing import sharing_speed
from planner.schedules import SCHEDULES, Kind, Schedule, Task, Timetable, predecessors
from planner.simulate.replicas import of_replicas
from planner.simulate.stage import StageRun, Streams
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
    if record.replicas:
        return of_replicas(record, [simulate(r, intervals=intervals) for r in record.replicas])
    schedule = SCHEDULES[record.schedule]
    if len(record.stages) == 1 and schedule.trains:
        schedule = SCHEDULES[ALONE]
    works, alone = stage_works(record), record.cluster.device.alone
    if alone > 1:
        line = run(schedule, works, record.microbatches, record.cluster.overlap, layout=record.layout, intervals=False)
        used = sum(line.busy_s(s.index) * len(s.devices) for s in record.stages) / record.device_count
        if used:
            speed = sharing_speed(line.step_time_s / used, record.device_count, alone)
            works = tuple(faster(w, speed) for w in works)
    return run(schedule, works, record.microbatches, record.cluster.overlap, layout=record.layout, intervals=intervals)


def run(schedule: Schedule, works: Sequence[StageWork], microbatches: int, overlap: Overlap | None = None, *,
        layout: Layout | None = None, intervals: bool = True) -> Timeline:
    """Run a schedule over stages with this work; without an overlap nothing hides, without a layout each stage is a
    rank of its own.

    Raises:
      PlanMismatchError: the schedule does not run on that layout, or with so many microbatches.
      ValueError: if the ranks wait for each other for ever.
    """
    layout = layout or placed(Placement.LINE, len(works))
    schedule.check(layout, microbatches)
    overlap, columns = overlap or Overlap(), Columns() if intervals else None
    ranks = [Streams() for _ in range(layout.ranks)]
    runs = [StageRun.of(n, w, overlap, columns, ranks[layout.rank_of[n]], trains=schedule.trains)
            for n, w in enumerate(works)]
    _run_tasks(schedule.tasks(layout, microbatches), layout, runs)
    end = max((r.finish(overlap) for r in runs), default=0.0)
    return Timeline(tuple(r.line() for r in runs), end, columns, layout)


def _run_tasks(orders: Timetable, layout: Layout, runs: Sequence[StageRun]) -> None:
    """Every task of every rank: a rank goes on until it needs a task that is not done, and again when that is."""
    last = {task.stage: n for order in orders for n, task in enumerate(order)}  # of a stage, in its rank's order
    heads, ready = [0] * layout.ranks, deque(range(layout.ranks))
    ends: dict[Task, float] = {}
    waiting: dict[Task, list[int]] = {}  # for a task: ranks
    links = [[0.0, 0.0] for _ in orders]  # per rank and way, when the link is free
    while ready:
        r = ready.popleft()
        for head in range(heads[r], len(orders[r])):
            task = orders[r][head]
            needs = predecessors(task, layout.stages)
            missing = next((t for t in needs if t not in ends), None)
            if missing is not None:
                waiting.setdefault(missing, []).append(r)
                break
            ends[task] = _do(runs, links[r], task, [(t.stage, ends[t]) for t in needs], last=head == last[task.stage])
            ready.extend(waiting.pop(task, ()))
            heads[r] = head + 1
    stuck = [order[head] for order, head in zip(orders, heads, strict=True) if head < len(order)]
    if stuck:
        raise ValueError(f"the schedule cannot go on: every rank waits, at {stuck}")


def _do(runs: Sequence[StageRun], link: list[float], task: Task, needs: Sequence[tuple[int, float]], *, last: bool
        ) -> float:
    """Run one task once its needs, (stage, end) of each, are there; its end."""
    s = task.stage
    stage, way = runs[s], 0 if task.phase is Kind.FORWARD else 1
    start = stage.rank.free_s
    for other, end in needs:
        carried = runs[max(s, other)].work.link_s if other != s else 0.0
        if not carried:
            start = max(start, end)
            continue
        sent = max(end, link[way])
        link[way] = sent + carried
        stage.received(task.microbatch, sent, carried, waited=max(0.0, link[way] - max(stage.rank.free_s, sent)))
        start = max(start, link[way])
    return stage.do(task.phase, task.microbatch, start, last=last)
