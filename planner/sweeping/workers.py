"""Several processes that plan points, each its share, and hand rows over as they come.

Processes are spawned: JAX does not survive a fork. Each plans whole batches, as far as there are enough, since points
of one batch share their trace. In: a `Grid`. Out: rows, in the order that they are done.
"""

import multiprocessing
import queue
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.queues import Queue
from typing import Any

from planner.core.sweeps import SweepRow
from planner.errors import PlannerError
from planner.sweeping.grid import Grid, Point, planned

LOOK_S = 0.5
"""How often it is looked whether a process is gone."""

END_S = 5.0
"""How long a process that is stopped may take to end before it is killed."""


def by_workers(grid: Grid, jobs: int) -> Iterator[tuple[Point, SweepRow]]:
    """Plan all points in so many processes. Closed early, as by Ctrl-C, it ends them.

    Raises:
      PlannerError: the model cannot be handed to another process.
    """
    context = multiprocessing.get_context("spawn")
    rows: Queue[Any] = context.Queue()
    shares = [share for share in shared(grid.points, jobs) if share]
    workers = [context.Process(target=_work, args=(grid, share, rows), daemon=True) for share in shares]
    left = {point.number: point for point in grid.points}
    try:
        _start(workers)
        while left:
            try:
                number, row = rows.get(timeout=LOOK_S)
            except queue.Empty:
                yield from _lost(workers, shares, left)
                continue
            point = left.pop(number, None)
            if point is not None:
                yield point, row
    finally:
        _end(workers)


def shared(points: Sequence[Point], jobs: int) -> list[list[Point]]:
    """The points of each process: whole batches in turn where there are as many as processes, else points in turn."""
    batches = list(dict.fromkeys(p.batch for p in points))
    if len(batches) >= jobs:
        return [[p for p in points if batches.index(p.batch) % jobs == job] for job in range(jobs)]
    return [[p for n, p in enumerate(points) if n % jobs == job] for job in range(jobs)]


def _start(workers: Sequence[Any]) -> None:
    for worker in workers:
        try:
            worker.start()
        except (AttributeError, TypeError, ValueError) as fault:  # what pickling raises for what it cannot
            raise PlannerError(f"the model cannot be handed to another process: {fault}",
                               "give a function of a module, or sweep with jobs=1") from fault


def _work(grid: Grid, points: Sequence[Point], rows: "Queue[Any]") -> None:
    """What a process does. Ctrl-C reaches all processes of a terminal: the first one ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for point, row in planned(grid, points):
        rows.put((point.number, row))


def _lost(workers: Sequence[Any], shares: Sequence[Sequence[Point]], left: dict[int, Point]
          ) -> Iterator[tuple[Point, SweepRow]]:
    """Rows that say so, of points whose process is gone (as when memory ran out)."""
    for worker, share in zip(workers, shares, strict=True):
        if worker.exitcode not in (None, 0):
            for point in share:
                if left.pop(point.number, None) is not None:
                    cluster = point.cluster
                    yield point, SweepRow(cluster.name, cluster.nodes, cluster.device_count, point.batch,
                                          reason=f"the process that was to plan it ended with {worker.exitcode}")


def _end(workers: Sequence[Any]) -> None:
    for worker in workers:
        if worker.pid is not None and worker.exitcode is None:
            worker.terminate()
    for worker in workers:
        if worker.pid is not None:
            worker.join(END_S)
            if worker.exitcode is None:
                worker.kill()
                worker.join()
