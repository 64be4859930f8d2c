"""Whether a run stands still: every process waits for its devices, and none has moved on for too long.

A process that compiles, saves, evaluates or makes a batch does not wait, and whoever waits for it may do so as long as
it takes. When all wait, nobody is left to wait for but devices, which wait for each other: for ever, if that is longer
than any program takes.

In: what waits, told by the runner (`Progress`) and once a second by each process to process 0. Out: words, once a run
stands still (`Standstill`).
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class Report:
    """Where a process is.

    Attributes:
      count: of what it has begun and ended so far; the same number means that it has not moved on.
      step: its newest step, from 1; 0 before the first.
      waits: for which program, or "" where it waits for none.
    """

    count: int = 0
    step: int = 0
    waits: str = ""


class Progress:
    """Where this process is. Waits may be told from several threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = self._step = 0
        self._waits: list[str] = []

    @property
    def report(self) -> Report:
        """As of now."""
        with self._lock:
            return Report(self._count, self._step, self._waits[-1] if self._waits else "")

    def step(self) -> None:
        """The next step begins."""
        with self._lock:
            self._count, self._step = self._count + 1, self._step + 1

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Inside, this process waits for a program."""
        self._begin(what)
        try:
            yield
        finally:
            self._end(what)

    def settle(self) -> None:
        """Return once this process waits for nothing more."""
        while self.report.waits:
            time.sleep(0.01)

    def wait_for(self, arrays: Any, what: str) -> None:
        """Count as waiting until arrays are made; returns at once."""
        self._begin(what)
        threading.Thread(target=self._wait, args=(arrays, what), daemon=True).start()

    def _wait(self, arrays: Any, what: str) -> None:
        with contextlib.suppress(RuntimeError):  # what failed is told to who looks at it
            jax.block_until_ready(arrays)
        self._end(what)

    def _begin(self, what: str) -> None:
        with self._lock:
            self._count += 1
            self._waits.append(what)

    def _end(self, what: str) -> None:
        with self._lock:
            self._count += 1
            self._waits.remove(what)


JOINED: ContextVar[Progress | None] = ContextVar("JOINED", default=None)
"""Where this process is, inside the block of `planner.distributed()`; a run of one process has none."""


class Standstill:
    """Process 0's view of all.

    Args:
      count: of processes.
      limit_s: how long all may wait without one moving on.
    """

    def __init__(self, count: int, limit_s: float) -> None:
        self._count, self._limit_s = count, limit_s
        self._seen: tuple[Report, ...] = ()
        self._since_s = 0.0

    def found(self, reports: Mapping[int, Report], now_s: float) -> str | None:
        """In words, who waits for what, if it has been so for too long.

        Args:
          reports: the newest of every process that has sent one.
          now_s: a clock.
        """
        seen = tuple(reports[n] for n in sorted(reports))
        if seen != self._seen or len(seen) < self._count or not all(x.waits for x in seen):
            self._seen, self._since_s = seen, now_s
            return None
        if now_s - self._since_s < self._limit_s:
            return None
        where = "; ".join(f"process {n} waits for {x.waits} in step {x.step}" for n, x in sorted(reports.items()))
        return (f"no process has moved on for {self._limit_s:.0f} s ({where}); where a program takes longer than that, "
                "give planner.distributed(limits=...) a larger stuck_s")
