"""Processes that watch each other, so that all end when one does: no process waits for ever for one that is gone.

Every process holds a connection to process 0 and sends a sign of life each second. A connection that breaks (the kernel
closes those of a killed process at once) or is silent for too long is a lost process; process 0 tells the others, who
say so and end themselves. A process that fails says why first, so that all end with the same words. One that is done
gives the others a limit to be done too. Signs of life say where a process is: process 0 sees when all stand still.

In: where process 0 listens. Out: `Watch`; `lost` is called with the news, from a thread of its own.
"""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any

from planner.processes.standstill import Progress, Report, Standstill

BEAT_S = 1.0
"""Seconds between signs of life: short beside any limit one would set."""


@dataclass(frozen=True)
class Limits:
    """Bounds in seconds.

    Attributes:
      silent_s: without a sign of life until a process counts as lost.
      end_s: that one may go on when another is done.
      start_s: to get connected.
      stuck_s: that all may wait for programs without one process moving on; far above what any program takes.
    """

    silent_s: float = 30.0
    end_s: float = 120.0
    start_s: float = 120.0
    stuck_s: float = 600.0

    @property
    def leave_s(self) -> float:
        """To leave the others once a process is done: it waits for them, and what JAX does then has a limit too."""
        return 2 * self.end_s + self.silent_s


class Watch:
    """One process's end of it; see the module.

    Args:
      process, count: which process this is, of how many.
      lost: told, once, in words, why this process must end.
      progress: where this process is.
    """

    def __init__(self, process: int, count: int, limits: Limits, lost: Callable[[str], None],
                 progress: Progress | None = None) -> None:
        self._process, self._count, self._limits, self._lost = process, count, limits, lost
        self._progress = progress or Progress()
        self._reports: dict[int, Report] = {}
        self._standstill = Standstill(count, limits.stuck_s)
        self._peers: dict[int, socket.socket] = {}
        self._lock, self._news = threading.Lock(), threading.Event()
        self._done: set[int] = set()
        self._over_at: float | None = None
        self._listeners: list[threading.Thread] = []

    def listen(self, host: str) -> tuple[socket.socket, int]:
        """Process 0: open the socket that others connect to, at a free port; returns it with the port."""
        server = socket.create_server((host, 0), backlog=self._count)
        return server, server.getsockname()[1]

    def accept(self, server: socket.socket) -> None:
        """Process 0: wait until all others are connected.

        Raises:
          TimeoutError: not all came in time.
        """
        end = time.monotonic() + self._limits.start_s
        with server:
            while len(self._peers) < self._count - 1:
                server.settimeout(max(0.01, end - time.monotonic()))
                peer, _ = server.accept()
                who = _who(peer)
                if who in range(1, self._count) and who not in self._peers:
                    self._peers[who] = peer
                else:
                    peer.close()
        self._begin()

    def connect(self, host: str, port: int) -> None:
        """Another process: connect to process 0. Raises `OSError` if nobody listens there."""
        self._peers[0] = socket.create_connection((host, port), timeout=self._limits.start_s)
        _send(self._peers[0], {"process": self._process})
        self._begin()

    def fail(self, why: str) -> None:
        """This process ends, and says why; process 0 passes it on. Nothing if the news is another's failure."""
        with self._lock:
            if self._news.is_set():
                return
            self._news.set()  # first: its own words, passed on to all, are no news to it
        self._tell({"failed": f"process {self._process} failed: {why}"})

    def done(self) -> None:
        """This process has come to its end as it should."""
        self._done.add(self._process)
        self._tell({"done": self._process})

    def close(self) -> None:
        """End the connections: of process 0 once the others have, which need it until then."""
        if self._process == 0:
            end = time.monotonic() + self._limits.end_s + self._limits.silent_s
            for thread in self._listeners:
                thread.join(max(0.0, end - time.monotonic()))
        self._news.set()  # what happens from here on is no news
        for peer in self._peers.values():
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)  # else what listens to it keeps it open
            peer.close()

    def news_within(self, seconds: float) -> bool:
        """Whether another process is lost, or is found to be within a time."""
        return self._news.wait(seconds)

    def _begin(self) -> None:
        for who, peer in self._peers.items():
            peer.settimeout(self._limits.silent_s)
            self._listeners.append(threading.Thread(target=self._listen_to, args=(who, peer), daemon=True))
            self._listeners[-1].start()
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while not self._news.wait(BEAT_S):
            self._look_around()
            if self._over_at is not None and time.monotonic() > self._over_at and self._process not in self._done:
                others = ", ".join(map(str, sorted(self._done)))
                self._end(f"process {others} came to its end {self._limits.end_s:.0f} s ago, process {self._process} "
                          "did not: they did not do the same steps")

    def _look_around(self) -> None:
        """Tell where this process is; in process 0, see whether all stand still."""
        mine = self._reports[self._process] = self._progress.report
        self._tell({} if self._process == 0 else {"at": astuple(mine), "process": self._process})
        if self._process == 0 and not self._done:
            stuck = self._standstill.found(dict(self._reports), time.monotonic())
            if stuck is not None:
                self._end(stuck)

    def _listen_to(self, who: int, peer: socket.socket) -> None:
        try:
            for message in _lines(peer):
                self._hear(message)
            ended = "ended without a word (killed, or its machine is gone)"
        except TimeoutError:
            ended = f"gave no sign of life for {self._limits.silent_s:.0f} s"
        except (OSError, ValueError):
            ended = "ended without a word (killed, or its machine is gone)"
        if who not in self._done and not self._news.is_set():
            self._end(f"process {who} {ended}")

    def _hear(self, message: dict[str, Any]) -> None:
        if "failed" in message:
            self._end(message["failed"])
        if "at" in message:
            self._reports[message["process"]] = Report(*message["at"])
        if "done" in message:
            self._done.add(message["done"])
            self._over_at = self._over_at or time.monotonic() + self._limits.end_s
            if self._process == 0:
                self._tell(message)

    def _end(self, why: str) -> None:
        with self._lock:
            if self._news.is_set():
                return
            self._news.set()
        self._tell({"failed": why})
        self._lost(why)

    def _tell(self, message: dict[str, Any]) -> None:
        for peer in self._peers.values():
            with contextlib.suppress(OSError):  # who is gone is found by the one who listens to them
                _send(peer, message)


def _who(peer: socket.socket) -> Any:
    """The number that a process gives when it has connected; None from one that is none of ours."""
    peer.settimeout(5.0)
    try:
        return next(_lines(peer))["process"]
    except (OSError, ValueError, LookupError, TypeError, StopIteration):
        return None


def _send(peer: socket.socket, message: dict[str, Any]) -> None:
    peer.sendall(json.dumps(message).encode() + b"\n")


def _lines(peer: socket.socket) -> Any:
    """Messages as they come; ends when the other side closes."""
    rest = b""
    while part := peer.recv(65536):
        *lines, rest = (rest + part).split(b"\n")
        yield from (json.loads(line) for line in lines)
