"""The timeline of a plan of several replicas: each by itself, then their gradients are added up, then all update.

In: timelines of the replicas, the plan of all. Out: one `Timeline`, whose stages are those of the plan.
"""

from array import array
from collections.abc import Sequence
from dataclasses import replace

from planner.core.plan import PlanRecord
from planner.simulate.timeline import STREAMS, WORKS, Columns, Edge, StageLine, Stream, Timeline, Work

COLLECTIVE, SYNC, UPDATE = STREAMS.index(Stream.COLLECTIVE), WORKS.index(Work.SYNC), WORKS.index(Work.UPDATE)


def of_replicas(record: PlanRecord, lines: Sequence[Timeline]) -> Timeline:
    """The replicas' timelines as one. Updates are moved to the end of the step, which is later by `sync_s`; what is
    between the last gradient and the first update is the exchange."""
    end = max(line.step_time_s for line in lines) + record.sync_s
    ready = max((line.step_time_s - min(map(_update_s, line.stages)) for line in lines), default=0.0)
    merged = Columns() if all(line.columns is not None for line in lines) else None
    stages: list[StageLine] = []
    for line in lines:
        first = len(stages)
        for n, stage in enumerate(line.stages):
            update = _update_s(stage)
            stages.append(_later(stage, end, record.sync_s))
            if merged is not None:
                _add(merged, first + n, COLLECTIVE, SYNC, ready, end - update)
        if merged is not None and line.columns is not None:
            _append(merged, line.columns, first, end)
    return Timeline(tuple(stages), end, merged, record.layout)


def _update_s(stage: StageLine) -> float:
    """Seconds of a stage's update."""
    at = {edge: time for edge, time in zip(stage.edges, stage.edge_times_s, strict=True)
          if edge in (Edge.UPDATE_STARTS, Edge.UPDATE_ENDS)}
    return at[Edge.UPDATE_ENDS] - at[Edge.UPDATE_STARTS] if len(at) == 2 else 0.0


def _later(stage: StageLine, end: float, sync_s: float) -> StageLine:
    """A stage whose update ends the step, after gradients were exchanged."""
    update, times = _update_s(stage), array("d", stage.edge_times_s)
    for n, edge in enumerate(stage.edges):
        if edge == Edge.UPDATE_STARTS:
            times[n] = end - update
        elif edge == Edge.UPDATE_ENDS:
            times[n] = end
    return replace(stage, edge_times_s=times, busy_s=stage.busy_s + sync_s,
                   communication_s=stage.communication_s + sync_s)


def _append(merged: Columns, columns: Columns, first: int, end: float) -> None:
    for n in range(len(columns)):
        stage, work = columns.stage[n], columns.work[n]
        start, stop = columns.start_s[n], columns.end_s[n]
        if work == UPDATE:
            start, stop = end - (stop - start), end
        _add(merged, first + stage, columns.stream[n], work, start, stop, columns.microbatch[n], columns.layer[n])


def _add(merged: Columns, stage: int, stream: int, work: int, start: float, stop: float,  # noqa: PLR0913  (a row)
         microbatch: int = -1, layer: int = -1) -> None:
    if stop <= start:
        return
    for column, value in ((merged.stage, stage), (merged.stream, stream), (merged.work, work),
                          (merged.microbatch, microbatch), (merged.layer, layer)):
        column.append(value)
    merged.start_s.append(start)
    merged.end_s.append(stop)
