"""Processes that make slice tables beside ours: most of the time of a search goes into them, and none needs another.

They are started once there is enough to do, by Python's own `-c`: not forked, which JAX does not survive, nor spawned
by `multiprocessing`, which imports the user's main module again. Tables are the same whoever makes them, so that plans
do not depend on how many processes there are; a process that is lost (out of memory, killed) is told of, and what it
had to do is done by the others. What will be asked for later can be told ahead: they make it while we do something
else.

In: what is asked for. Out: the tables, those that others made as bytes.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Thread
from types import TracebackType

from planner.cache.jobs import Job, Jobs, Made
from planner.cache.worker import read_message, write_message
from planner.cache.written import Task
from planner.errors import PlannerError

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
        self._count = all_cores() if jobs is None else jobs
        self._always, self._say = jobs is not None, say
        self._started: list[_Worker] = []
        self._jobs = Jobs()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
                 ) -> None:
        self.end()

    @property
    def are_there(self) -> bool:
        """Whether any process helps."""
        return bool(self._started)

    def expect(self, operators: int, meshes: int) -> None:
        """Start them if there will be enough to do, so that they are ready by then. Asked for by number, they are
        started for anything."""
        if not self._started and sys.executable and (self._always or operators * meshes >= LARGE):
            self._started = [_Worker(self._jobs) for _ in range(self._count - 1)]

    def ahead(self, tasks: Sequence[Task]) -> None:
        """Have them make what will be asked for later, when they have nothing else to do."""
        if self._started:
            self._jobs.put_last(tasks)

    def tables(self, tasks: Sequence[Task]) -> list[Made]:
        """The table of each task. Ours is one of the processes that make them."""
        if not self._started:
            return [task.table() for task in tasks]
        try:
            asked = self._jobs.put_first(tasks)
            while True:
                while (job := self._jobs.take_of(asked)) is not None:
                    self._jobs.done(job, job.task.table())
                if self._jobs.wait_for(asked):
                    break
            made = [job.made or job.task.table() for job in asked]  # what others could not make says why here
        except BaseException:  # Ctrl-C as well: what they are at is of no use any more
            self.end()
            raise
        self._jobs.forget(asked)
        self._leave_out_lost()
        return made

    def end(self) -> None:
        """End the processes."""
        self._jobs.end()
        for worker in self._started:
            worker.end()
        self._started, self._jobs = [], Jobs()

    def _leave_out_lost(self) -> None:
        for worker in [w for w in self._started if w.lost]:
            worker.end()
            self._say(f"a process that solved layers ended with {worker.process.returncode}: going on without it")
            self._started.remove(worker)


class _Worker:
    """One process, and a thread of ours that has it do what is to be done."""

    def __init__(self, jobs: Jobs) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", START.format(path=sys.path)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        self.lost = False
        self._jobs, self._program = jobs, None
        Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while (job := self._jobs.take()) is not None:
            answer = self._answer(job)
            if answer is None:
                self.lost = True
                self._jobs.give_back(job)
                return
            self._jobs.done(job, answer)

    def _answer(self, job: Job) -> bytes | None:
        """The table, written; empty if it could not be made, None if the process is gone."""
        assert self.process.stdin is not None and self.process.stdout is not None
        prepared = job.task.prepared
        try:
            if prepared is not self._program:
                write_message(self.process.stdin, self._jobs.program(prepared))
                self._program = prepared
            write_message(self.process.stdin, job.message)
            return read_message(self.process.stdout)
        except (OSError, ValueError):  # a broken pipe; a pipe that was closed by `end`
            return None

    def end(self) -> None:
        """End the process by force: it keeps nothing."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.kill()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(END_S)
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                pipe.close()
