"""Timelines as trace events, the JSON that Perfetto (ui.perfetto.dev) and Chrome's tracing page open.

One process per rank (a stage, or the stages that share its devices); its threads are arithmetic, communication and
link, and memory is a counter. Of a run that was profiled, each rank has a process of measured tasks right above the one
of predicted work, with the same names, both from the step's start; and the host has one, of its calls. Times are
microseconds. Format: "Trace Event Format", the Chromium project's document: complete events (`ph: X`), metadata (`M`)
and counters (`C`).

In: a `Timeline`, perhaps a `MeasuredStep`. Out: a JSON document, or a file that appears whole or not at all.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from planner.core import programs
from planner.core.files import write_atomically
from planner.core.layout import Layout
from planner.errors import PlannerError
from planner.report import units
from planner.report.measured import MeasuredStep, MeasuredTask
from planner.simulate import Interval, Stream, Timeline

THREADS = tuple(Stream)
MICRO = 1e6
"""Microseconds in a second."""
SAID = MappingProxyType({programs.FINISH: "sync"})
"""Programs whose work the simulation calls otherwise."""


def trace_events(line: Timeline, measured: MeasuredStep | None = None) -> dict[str, Any]:
    """The document.

    Raises:
      PlannerError: the timeline has no intervals.
    """
    if measured is None:
        return _document(_predicted(line, lambda rank: rank, ""))
    host = -min((call.start_s for call in measured.calls), default=0.0)
    return _document((*_host(measured, host), *_measured(line.layout, measured, host),
                      *_predicted(line, lambda rank: 2 * rank + 2, ", predicted", host)))


def _document(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {"traceEvents": list(events), "displayTimeUnit": "ms"}


def write_trace(line: Timeline, path: str | os.PathLike[str], measured: MeasuredStep | None = None) -> None:
    """Write the document to a file.

    Raises:
      PlannerError: the timeline has no intervals, or the file cannot be written.
    """
    text = json.dumps(trace_events(line, measured), separators=(",", ":")) + "\n"
    try:
        write_atomically(Path(path), text.encode())
    except OSError as fault:
        raise PlannerError(f"cannot write {path}: {fault.strerror or fault}",
                           "give a path in a folder that can be written") from fault


def _predicted(line: Timeline, pid: Callable[[int], int], suffix: str, after_s: float = 0.0
               ) -> Iterator[dict[str, Any]]:
    """Events of the simulation, `after_s` later than its own times."""
    layout = line.layout
    for rank in range(layout.ranks):
        yield from _process(pid(rank), units.rank_name(layout, rank) + suffix, THREADS)
    for i in line.intervals:
        yield _event(i, pid(layout.rank_of[i.stage]), layout, after_s)
    for rank in range(layout.ranks):
        curve = line.rank_memory_curve(rank)
        for at, held in zip(curve.times_s.tolist(), curve.held_bytes.tolist(), strict=True):
            yield {"ph": "C", "name": "memory", "pid": pid(rank), "tid": 0, "ts": MICRO * (at + after_s),
                   "args": {"bytes": held}}


def _process(pid: int, name: str, threads: Sequence[str]) -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": name}}
    yield {"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "args": {"sort_index": pid}}
    for n, thread in enumerate(threads):
        yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": n, "args": {"name": str(thread)}}


def _event(i: Interval, pid: int, layout: Layout, after_s: float) -> dict[str, Any]:
    args = {name: value for name, value in (("microbatch", i.microbatch), ("layer", i.layer)) if value is not None}
    return {"ph": "X", "name": _said(str(i.work), i.microbatch, i.stage, layout), "cat": str(i.work), "pid": pid,
            "tid": THREADS.index(i.stream), "ts": MICRO * (i.start_s + after_s),
            "dur": MICRO * (i.end_s - i.start_s), "args": args}


def _said(work: str, microbatch: int | None, stage: int, layout: Layout) -> str:
    name = work if microbatch is None else f"{work} {microbatch}"
    return name if layout.chunks == 1 else f"{name} of stage {stage}"


def _host(step: MeasuredStep, after_s: float) -> Iterator[dict[str, Any]]:
    """The host's calls of programs."""
    layout = Layout((0, 0))  # names stages in every event
    yield from _process(0, "host, measured", ("calls of programs",))
    for call in step.calls:
        yield _task(call, 0, 0, layout, after_s)


def _measured(layout: Layout, step: MeasuredStep, after_s: float) -> Iterator[dict[str, Any]]:
    """A rank's tasks, in as many threads as there are tasks at a time."""
    for rank in range(layout.ranks):
        mine = [t for t in step.tasks if layout.rank_of[t.stage] == rank]
        lanes: list[float] = []
        placed: list[tuple[MeasuredTask, int]] = []
        for task in mine:
            lane = next((n for n, end in enumerate(lanes) if end <= task.start_s), len(lanes))
            lanes[lane:lane + 1] = [task.end_s]
            placed.append((task, lane))
        busy = units.share(step.busy_s(layout.stages_of(rank)) / step.step_time_s) if step.step_time_s else "0 %"
        yield from _process(2 * rank + 1, f"{units.rank_name(layout, rank)}, measured (devices busy {busy})",
                            ["tasks", *(f"tasks, {n + 1} at once" for n in range(1, len(lanes)))])
        for task, lane in placed:
            yield _task(task, 2 * rank + 1, lane, layout, after_s)


def _task(task: MeasuredTask, pid: int, tid: int, layout: Layout, after_s: float) -> dict[str, Any]:
    work = SAID.get(task.work, task.work).replace("_", " ")
    args = {"microbatch": task.microbatch} if task.microbatch is not None else {}
    return {"ph": "X", "name": _said(work, task.microbatch, task.stage, layout), "cat": work, "pid": pid, "tid": tid,
            "ts": MICRO * (task.start_s + after_s), "dur": MICRO * (task.end_s - task.start_s),
            "args": {**args, "devices busy ms": 1e3 * task.busy_s}}
