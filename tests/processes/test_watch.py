"""The watch between threads of one process: what is told, to whom, and when nothing is."""

import socket
import threading
import time

import pytest

from planner.processes.standstill import Progress
from planner.processes.watch import Limits, Watch

SOON_S = 20  # a loaded machine


class Ends:
    """Watches of `count` processes, and the news that each was told."""

    def __init__(self, count, limits=None):
        limits = limits or Limits()
        self.news = [None] * count
        self.progress = [Progress() for _ in range(count)]
        self.watches = [Watch(n, count, limits, lambda why, n=n: self.news.__setitem__(n, why), self.progress[n])
                        for n in range(count)]
        server, port = self.watches[0].listen("127.0.0.1")
        others = [threading.Thread(target=w.connect, args=("127.0.0.1", port)) for w in self.watches[1:]]
        for other in others:
            other.start()
        self.watches[0].accept(server)
        for other in others:
            other.join()

    def close(self):
        for watch in (*self.watches[1:], self.watches[0]):
            watch.close()

    def told(self, n):
        """The news of a process, waited for."""
        end = time.monotonic() + SOON_S
        while self.news[n] is None and time.monotonic() < end:
            time.sleep(0.01)
        return self.news[n]


@pytest.fixture
def start():
    begun = []
    yield lambda *args: begun.append(Ends(*args)) or begun[-1]
    for ends in begun:
        ends.close()


def test_who_fails_says_why_to_all(start):
    ends = start(3)
    ends.watches[2].fail("no disk")
    assert ends.told(0) == ends.told(1) == "process 2 failed: no disk" and ends.news[2] is None


def test_process_0_too(start):
    ends = start(2)
    ends.watches[0].fail("no disk")
    assert ends.told(1) == "process 0 failed: no disk"


def test_a_broken_connection_is_a_lost_process(start):
    ends = start(3)
    ends.watches[1].close()
    assert ends.told(0) == ends.told(2) == "process 1 ended without a word (killed, or its machine is gone)"


def test_silence_is_a_lost_process(start, monkeypatch):
    monkeypatch.setattr("planner.processes.watch.BEAT_S", 30)
    ends = start(2, Limits(silent_s=0.3))
    assert "gave no sign of life for 0 s" in ends.told(0)


def test_who_is_done_is_not_missed(start):
    ends = start(2)
    for watch in ends.watches:
        watch.done()
    ends.watches[1].close()
    ends.watches[0].close()
    assert ends.news == [None, None]


def test_others_have_a_limit_when_one_is_done(start, monkeypatch):
    monkeypatch.setattr("planner.processes.watch.BEAT_S", 0.05)
    ends = start(2, Limits(end_s=0.2))
    ends.watches[1].done()
    assert "process 1 came to its end 0 s ago, process 0 did not" in ends.told(0)


def test_all_are_told_that_they_wait_for_each_other(start, monkeypatch):
    monkeypatch.setattr("planner.processes.watch.BEAT_S", 0.05)
    ends = start(3, Limits(stuck_s=0.3))
    waits = [progress.waiting(f"program {n}") for n, progress in enumerate(ends.progress)]
    for progress, wait in zip(ends.progress[:2], waits[:2], strict=True):
        progress.step()
        wait.__enter__()
    time.sleep(1)
    assert ends.news == [None] * 3  # one of them works
    waits[2].__enter__()
    assert ends.told(0) == ends.told(1) == ends.told(2)
    assert ends.told(0).startswith("no process has moved on for 0 s (process 0 waits for program 0 in step 1; "
                                   "process 1 waits for program 1 in step 1; process 2 waits for program 2 in step 0)")


def test_strangers_are_not_counted():
    watch = Watch(0, 2, Limits(start_s=0.3), lambda why: None)
    server, port = watch.listen("127.0.0.1")
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b'{"process": 7}\n')
        with pytest.raises(TimeoutError):
            watch.accept(server)
