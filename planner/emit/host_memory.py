"""Activations that wait for their backward in the host's memory: which values, and when a pipeline's driver moves them.

What a microbatch leaves behind goes to the host once its forward is done, and comes back while the task before its
backward runs. At most two microbatches' worth of it is on a device at once: what is worked on, and what is under way.
Sources: Ren et al. (ZeRO-Offload), arXiv:2101.06840; Rhu et al. (vDNN), arXiv:1602.08124.

In: a plan, the tasks of its stages, their order. Out: values per stage; `Moves` per task.
"""

from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planner.core.layout import Layout
from planner.core.plan import PlanRecord
from planner.emit.pipeline_code import PipelineCode
from planner.schedules import Kind, Task

ROOM = 2
"""Microbatches whose values are on a device at most: one that is worked on, one that comes, goes, or stays because it
is needed soon."""

Key = tuple[int, int]
"""(stage, microbatch)."""


@dataclass(frozen=True, slots=True)
class Moves:
    """What is moved around one task of a rank.

    Attributes:
      wait: before it starts, wait until no more than that many microbatches are on their way to the host; None: don't.
      fetch: whose values to bring to the devices before it starts.
      send: whether the values of its own microbatch go to the host after it.
    """

    wait: int | None = None
    fetch: tuple[Key, ...] = ()
    send: bool = False


def waiting_values(record: PlanRecord, code: PipelineCode) -> tuple[frozenset[int], ...]:
    """Per stage, the values of its layers in `StagePlan.offload` that wait for a backward: those that a layer makes,
    and of those that arrive from other stages, the ones that it reads first. Scalars stay."""
    return tuple(_of_stage(record, code, s.index) if s.offload else frozenset[int]() for s in record.stages)


def _of_stage(record: PlanRecord, code: PipelineCode, stage: int) -> frozenset[int]:
    graph = code.given.graph
    forward, kept = code.tasks[stage, Kind.FORWARD], code.read_after(stage, Kind.FORWARD)
    ranges = [record.layers[layer].ops for layer in record.stages[stage].offload]
    first: dict[int, int] = {}
    for n in forward.ops:
        op = graph.ops[n]
        for v in (*op.results, *op.inputs):
            first.setdefault(v, op.origin)
    return frozenset(v for v in kept if v in first and v not in code.role and graph.values[v].shape
                     and any(a <= first[v] < b for a, b in ranges))


def host_moves(order: Sequence[Task], layout: Layout, away: Sequence[bool]) -> Mapping[Task, Moves]:
    """Moves of every task.

    Args:
      order: of all tasks.
      layout: of the stages; stages of a rank share its devices.
      away: per stage, whether anything of it waits in the host's memory.
    """
    found: dict[Task, Moves] = {}
    for rank in range(layout.ranks):
        mine = [t for t in order if layout.rank_of[t.stage] == rank]
        if any(away[s] for s in layout.stages_of(rank)):
            found |= _of_rank(mine, away)
    return found


def _of_rank(tasks: Sequence[Task], away: Sequence[bool]) -> dict[Task, Moves]:
    first: dict[Key, int] = {}
    last: dict[Key, int] = {}
    for n, task in enumerate(tasks):
        if task.phase is not Kind.FORWARD:
            first.setdefault((task.stage, task.microbatch), n)
            last[task.stage, task.microbatch] = n
    sent = _sent(tasks, away, first, last)
    here, leaving, gone = set[Key](), list[Key](), set[Key]()
    found: dict[Task, Moves] = {}
    for n, task in enumerate(tasks):
        own, fetch = (task.stage, task.microbatch), list[Key]()
        after = tasks[n + 1] if n + 1 < len(tasks) else None
        then = None if after is None or after.phase is Kind.FORWARD else (after.stage, after.microbatch)
        forward, wait = task.phase is Kind.FORWARD, None
        if forward or own in gone:  # makes room for one microbatch, or for two
            soon = forward and then in gone and not here
            wait = max(0, ROOM - 1 - len(here) - soon)
            del leaving[:max(0, len(leaving) - wait)]
        if own in gone:
            fetch.append(own)
        if then in gone and then != own and len(here) + len(leaving) + (own not in here) < ROOM:
            fetch.append(then)
        gone.difference_update(fetch)
        here.update(fetch)
        if own in sent and forward:
            gone.add(own)
            leaving.append(own)
        elif forward and away[task.stage]:
            here.add(own)
        if last.get(own) == n:
            here.discard(own)
        found[task] = Moves(wait, tuple(fetch), forward and own in sent)
    return found


def _sent(tasks: Sequence[Task], away: Sequence[bool], first: Mapping[Key, int], last: Mapping[Key, int]) -> set[Key]:
    """Which microbatches go: those for which there is no room at some time, what is needed soonest having a seat."""
    waiting: list[tuple[int, Key]] = []  # (task that needs it, which), in order
    seated: list[tuple[int, Key]] = []  # those of them that always had a seat so far
    found: set[Key] = set()
    for n, task in enumerate(tasks):
        own = (task.stage, task.microbatch)
        if not away[task.stage] or own not in first:
            continue
        if task.phase is Kind.FORWARD:
            insort(waiting, (first[own], own))
            insort(seated, (first[own], own))
        soonest = [key for _, key in waiting[:ROOM]]
        allowed = {own, *(soonest if own in soonest else soonest[:ROOM - 1])}
        found.update(key for _, key in seated if key not in allowed)
        seated = [pair for pair in seated if pair[1] in allowed]
        if last[own] == n:
            waiting.remove((first[own], own))
            seated = [pair for pair in seated if pair[1] != own]
    return found
