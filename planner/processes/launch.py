"""Starting the processes of a run on this machine, to try what runs on many.

In: a command line, which is given to every process with its number. Out: an exit code. Output of process 0 and errors
of all pass through; signals are passed on; when one process fails, the others have a limit to end themselves.
"""

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from planner.errors import ProcessError
from planner.processes.group import LOST

_NOISE = "[Gloo] "
"""How lines start that gloo writes to standard output whatever is asked of it (jaxlib 0.10.2)."""


@dataclass(frozen=True)
class Launch:
    """What to start.

    Attributes:
      command: `(coordinator, process) -> command line`.
      count: how many processes.
      coordinator: `"host:port"` for process 0 to listen at; None: the loopback address and a free port.
      end_s: how long the others may go on once a process has failed, or a signal came; then they are killed.
    """

    command: Callable[[str, int], Sequence[str]]
    count: int
    coordinator: str | None = None
    end_s: float = 40.0


def launch(given: Launch) -> int:
    """Start the processes and wait for all of them.

    Returns:
      0 if all ended well; else the exit code of the first that failed by itself (128 + the signal that killed it).

    Raises:
      ProcessError: the address named for process 0 is taken, or not this machine's.
    """
    coordinator = given.coordinator or f"127.0.0.1:{free_port('127.0.0.1')}"
    if given.coordinator is not None:
        _check_free(given.coordinator)
    started: list[subprocess.Popen[str]] = []
    with _signals_passed_on(started) as came:
        readers: list[threading.Thread] = []
        for n in range(given.count):
            started.append(_start(given.command(coordinator, n)))
            readers += _readers(started[-1], n)
            for number in came:
                started[-1].send_signal(number)
        codes = _ended(started, given.end_s)
    for reader in readers:
        reader.join()
    for n, code in enumerate(codes):
        if code < 0:
            sys.stderr.write(f"process {n} was ended by {signal.Signals(-code).name}\n")
    bad = [code for code in codes if code]
    own = [code for code in bad if code != LOST]
    first = (own or bad or [0])[0]
    return 128 - first if first < 0 else first


def free_port(host: str) -> int:
    """A port of an address that nobody listens at now."""
    with socket.create_server((host, 0)) as server:
        return server.getsockname()[1]


def _check_free(coordinator: str) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ProcessError(f"--coordinator {coordinator!r} is not an address", "write HOST:PORT, 127.0.0.1:12345")
    try:
        socket.create_server((host.strip("[]"), int(port))).close()
    except OSError as fault:
        raise ProcessError(f"process 0 cannot listen at {coordinator}: {fault.strerror or fault}",
                           "name another port, or leave --coordinator out for a free one") from fault


def _start(command: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, errors="replace", start_new_session=True)


def _readers(process: subprocess.Popen[str], number: int) -> Iterator[threading.Thread]:
    """Threads that pass on what a process writes, until it ends."""
    assert process.stdout is not None and process.stderr is not None
    mark = "" if number == 0 else f"process {number}: "
    for source, target in ((process.stdout, sys.stdout if number == 0 else None), (process.stderr, sys.stderr)):
        reader = threading.Thread(target=_pass_on, args=(source, target, mark), daemon=True)
        reader.start()
        yield reader


def _pass_on(source: IO[str], target: IO[str] | None, mark: str) -> None:
    noisy = False
    with source:
        for line in source:
            noisy = line.startswith(_NOISE) or (noisy and not line.strip())  # two of its lines end in two line ends
            if target is not None and not noisy:
                with contextlib.suppress(BrokenPipeError, ValueError):
                    target.write(mark + line)
                    target.flush()


@contextlib.contextmanager
def _signals_passed_on(started: Sequence[subprocess.Popen[str]]) -> Iterator[list[int]]:
    """SIGINT and SIGTERM go to every process started, which have a session of their own so that each comes once. Gives
    the signals that came so far."""
    came: list[int] = []

    def pass_on(number: int, _: object) -> None:
        came.append(number)
        for process in started:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ended(started: Sequence[subprocess.Popen[str]], end_s: float) -> list[int]:
    """Exit codes, once all have ended; negative: the signal that did it."""
    over_at: float | None = None
    while None in (codes := [process.poll() for process in started]):
        time.sleep(0.05)
        failed = any(codes)
        over_at = time.monotonic() + end_s if failed and over_at is None else over_at
        if over_at is not None and time.monotonic() > over_at:
            for process in started:
                process.kill()
    return [process.returncode for process in started]
