"""A timeline as trace events, the JSON that Perfetto (ui.perfetto.dev) and Chrome's tracing page open.

One process per stage; its threads are arithmetic, communication and link, and memory is a counter. Times are
microseconds. Format: "Trace Event Format", the Chromium project's document: complete events (`ph: X`), metadata (`M`)
and counters (`C`).

In: a `Timeline`. Out: a JSON document, or a file that appears whole or not at all.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from planner.core.files import write_atomically
from planner.errors import PlannerError
from planner.simulate import Interval, Stream, Timeline

THREADS = tuple(Stream)
MICRO = 1e6
"""Microseconds in a second."""


def trace_events(line: Timeline) -> dict[str, Any]:
    """The document.

    Raises:
      PlannerError: the timeline has no intervals.
    """
    events = [*_names(line), *(_event(i) for i in line.intervals), *_memory(line)]
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def write_trace(line: Timeline, path: str | os.PathLike[str]) -> None:
    """Write the document to a file.

    Raises:
      PlannerError: the timeline has no intervals, or the file cannot be written.
    """
    text = json.dumps(trace_events(line), separators=(",", ":")) + "\n"
    try:
        write_atomically(Path(path), text.encode())
    except OSError as fault:
        raise PlannerError(f"cannot write {path}: {fault.strerror or fault}",
                           "give a path in a folder that can be written") from fault


def _names(line: Timeline) -> Iterator[dict[str, Any]]:
    for stage in range(len(line.stages)):
        yield {"ph": "M", "name": "process_name", "pid": stage, "tid": 0, "args": {"name": f"stage {stage}"}}
        for n, stream in enumerate(THREADS):
            yield {"ph": "M", "name": "thread_name", "pid": stage, "tid": n, "args": {"name": str(stream)}}


def _event(i: Interval) -> dict[str, Any]:
    args = {name: value for name, value in (("microbatch", i.microbatch), ("layer", i.layer)) if value is not None}
    name = str(i.work) if i.microbatch is None else f"{i.work} {i.microbatch}"
    return {"ph": "X", "name": name, "cat": str(i.work), "pid": i.stage, "tid": THREADS.index(i.stream),
            "ts": MICRO * i.start_s, "dur": MICRO * (i.end_s - i.start_s), "args": args}


def _memory(line: Timeline) -> Iterator[dict[str, Any]]:
    for stage in range(len(line.stages)):
        curve = line.memory_curve(stage)
        for at, held in zip(curve.times_s.tolist(), curve.held_bytes.tolist(), strict=True):
            yield {"ph": "C", "name": "memory", "pid": stage, "tid": 0, "ts": MICRO * at, "args": {"bytes": held}}
