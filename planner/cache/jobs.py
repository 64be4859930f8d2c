"""Tables to be made, for threads that share them out: those that are waited for come first, then those told ahead.

In: tasks. Out: jobs, each taken by one thread, whose table is there once it is done.
"""

from collections.abc import Hashable, Sequence
from threading import Condition

from planner.cache.sent import sent
from planner.cache.written import Task
from planner.intraop.compose import SliceTable
from planner.prepared import Prepared

Made = SliceTable | bytes
"""A table that was made here, or one as `written.py` writes it."""


class Job:
    """A table to be made: `made` once it is, empty bytes where another process could not; `message` is what it is told,
    all but the program."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.message = sent((task.space, task.hardware, task.pins))
        self.taken = False
        self.made: Made | None = None


def _key(task: Task) -> Hashable:
    """Equal for what is the same to make."""
    return id(task.prepared), task.space, task.hardware, task.pins


class Jobs:
    """What is to be done; safe for several threads."""

    def __init__(self) -> None:
        self._left: list[Job] = []
        self._known: dict[Hashable, Job] = {}
        self._programs: list[tuple[Prepared, bytes]] = []
        self._changed, self._ended = Condition(), False

    def put_first(self, tasks: Sequence[Task]) -> list[Job]:
        """Put what is waited for before all else; what was told ahead may be done already."""
        with self._changed:
            jobs = [self._job(task) for task in tasks]
            mine = {id(job) for job in jobs}
            self._left = [*(job for job in jobs if not job.taken), *(j for j in self._left if id(j) not in mine)]
            self._changed.notify_all()
            return jobs

    def put_last(self, tasks: Sequence[Task]) -> None:
        """Put what will be asked for behind all else."""
        with self._changed:
            there = {id(job) for job in self._left}
            jobs = [self._job(task) for task in tasks]
            self._left += [job for job in jobs if not job.taken and id(job) not in there]
            self._changed.notify_all()

    def take(self) -> Job | None:
        """The next job, once there is one; None once all has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._left or self._ended)
            return None if self._ended else self._taken(self._left[0])

    def take_of(self, jobs: Sequence[Job]) -> Job | None:
        """One of these that nobody has taken; None if there is none."""
        with self._changed:
            mine = {id(job) for job in jobs}
            job = next((job for job in self._left if id(job) in mine), None)
            return None if job is None else self._taken(job)

    def done(self, job: Job, made: Made) -> None:
        """The table is there."""
        with self._changed:
            job.made = made
            self._changed.notify_all()

    def give_back(self, job: Job) -> None:
        """Whoever took it can't do it."""
        with self._changed:
            job.taken = False
            self._left.insert(0, job)
            self._changed.notify_all()

    def wait_for(self, jobs: Sequence[Job]) -> bool:
        """Wait until all are done; False if one was given back before."""
        with self._changed:
            self._changed.wait_for(lambda: all(job.made is not None for job in jobs)
                                   or any(not job.taken for job in jobs))
            return all(job.made is not None for job in jobs)

    def forget(self, jobs: Sequence[Job]) -> None:
        """These were asked for, and given."""
        with self._changed:
            for job in jobs:
                self._known.pop(_key(job.task), None)
            there = {id(job.task.prepared) for job in self._known.values()} | {id(job.task.prepared) for job in jobs}
            self._programs = [(known, content) for known, content in self._programs if id(known) in there]

    def end(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def program(self, prepared: Prepared) -> bytes:
        """A program as bytes, once a job of it was put here."""
        with self._changed:
            return next(content for known, content in self._programs if known is prepared)

    def _job(self, task: Task) -> Job:
        """What is to be sent is made here, where nobody computes with it meanwhile: what finds out more about a program
        changes it."""
        if all(known is not task.prepared for known, _ in self._programs):
            self._programs.append((task.prepared, sent(task.prepared)))
        key = _key(task)
        if key not in self._known:
            self._known[key] = Job(task)
        return self._known[key]

    def _taken(self, job: Job) -> Job:
        self._left.remove(job)
        job.taken = True
        return job
