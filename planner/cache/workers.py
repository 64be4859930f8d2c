"""Processes that make slice tables beside ours: most of the time of a search goes into them, and none needs another.

They are started once there is enough to do, by Python's own `-c`: not forked, which JAX does not survive, nor spawned
by `multiprocessing`, which imports the user's main module again. Tables are the same whoever makes them, so that plans
do not depend on how many processes there are; a process that is lost (out of memory, killed) is told of, and what it
had to do is done by the others.

In: what is asked for. Out: the tables, those that others made as bytes.
"""

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Thread
from types import TracebackType

from planner.cache.sent import sent
from planner.cache.worker import read_message, write_message
from planner.cache.written import Task
from planner.errors import PlannerError
from planner.intraop.compose import SliceTable

Made = SliceTable | bytes
"""A table that was made here, or one as `written.py` writes it."""

MOST = 16
"""Processes at most, if nobody says how many. [chosen: as many as the logical meshes of a submesh]"""

LARGE = 10_000
"""Operators × meshes from which on processes are worth starting. [chosen: a second of work, twice what it takes]"""

END_S = 5.0
"""How long a process may take to end when it is told to."""

START = "import sys; sys.path[:] = {path!r}; from planner.cache.worker import main; main()"


def all_cores() -> int:
    """How many processes to plan in, if nobody says: one for each core that we may use."""
    may = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return min(len(may), MOST)


class Workers:
    """Processes beside ours: of `jobs` in all, one less. Leaving the context ends them."""

    def __init__(self, jobs: int | None = None, say: Callable[[str], None] = lambda _: None) -> None:
        """Nothing is started yet. `jobs`: None for one for each core.

        Raises:
          PlannerError: fewer than one process.
        """
        if jobs is not None and jobs < 1:
            raise PlannerError(f"planning in {jobs} processes", "give at least 1, or leave it out for one per core")
        self._jobs = all_cores() if jobs is None else jobs
        self._always, self._say = jobs is not None, say
        self._started: list[_Worker] = []
        self._program: object = None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
                 ) -> None:
        self.end()

    def expect(self, operators: int, meshes: int) -> None:
        """Start them if there will be enough to do, so that they are ready by then. Asked for by number, they are
        started for anything."""
        if not self._started and sys.executable and (self._always or operators * meshes >= LARGE):
            self._started = [_Worker() for _ in range(self._jobs - 1)]

    def tables(self, tasks: Sequence[Task]) -> list[Made]:
        """The table of each task; all are of one program. Ours is one of the processes that make them."""
        if self._started and tasks and tasks[0].prepared is not self._program:
            self._program = tasks[0].prepared
            program = sent(self._program)
            for worker in self._started:
                worker.program = program
        left = deque(enumerate(tasks))
        found: dict[int, Made] = {}
        threads = [Thread(target=_feed, args=(worker, left, found), daemon=True) for worker in self._started]
        try:
            for thread in threads:
                thread.start()
            _work(left, found)
            for thread in threads:
                thread.join()
            self._leave_out_lost()
            _work(deque((n, task) for n, task in enumerate(tasks) if found.get(n, b"") == b""), found)
        except BaseException:  # Ctrl-C as well: what they are at is of no use any more
            left.clear()
            self.end()
            raise
        return [found[n] for n in range(len(tasks))]

    def end(self) -> None:
        """End the processes."""
        for worker in self._started:
            worker.end()
        self._started, self._program = [], None

    def _leave_out_lost(self) -> None:
        for worker in [w for w in self._started if w.lost]:
            self._say(f"a process that solved layers ended with {worker.process.wait()}: going on without it")
            worker.end()
            self._started.remove(worker)


class _Worker:
    """One process: `program` is what it has to be told before the next request."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", START.format(path=sys.path)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        self.program = b""
        self.lost = False

    def ask(self, task: Task) -> bytes | None:
        """The table, written; empty if it could not be made, None if the process is gone."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            if self.program:
                write_message(self.process.stdin, self.program)
                self.program = b""
            write_message(self.process.stdin, sent((task.space, task.hardware, task.pins)))
            answer = read_message(self.process.stdout)
        except (OSError, ValueError):  # a broken pipe; a pipe that was closed by `end`
            answer = None
        self.lost = answer is None
        return answer

    def end(self) -> None:
        """End the process, if need be by force."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.kill()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(END_S)
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                pipe.close()


def _feed(worker: _Worker, left: deque[tuple[int, Task]], found: dict[int, Made]) -> None:
    """Have a process do what is left, one after the other."""
    while (taken := _next(left)) is not None:
        answer = worker.ask(taken[1])
        if answer is None:
            return
        found[taken[0]] = answer


def _work(left: deque[tuple[int, Task]], found: dict[int, Made]) -> None:
    """Do what is left ourselves."""
    while (taken := _next(left)) is not None:
        found[taken[0]] = taken[1].table()


def _next(left: deque[tuple[int, Task]]) -> tuple[int, Task] | None:
    try:
        return left.popleft()
    except IndexError:  # others were faster
        return None
