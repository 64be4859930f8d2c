"""A process that makes slice tables for the one that started it: what `workers.py` runs.

It reads messages from its standard input until that ends, and answers each request for a table on its standard output;
it ends with the process that started it. It knows no JAX.

A message is its length, then its bytes: the `Prepared` program that later requests are about, or a request.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import IO

import numpy as np

from planner.cache.sent import received
from planner.cache.written import Task, written
from planner.garbage import seldom_collected
from planner.prepared import Prepared
from planner.solvers.eliminate_tables import eliminate

SIZE_BYTES = 8


def main() -> None:
    """Answer until the other side has closed. Ctrl-C reaches all processes of a terminal: it is for the first one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what anything prints is no answer
    with seldom_collected():
        eliminate([np.zeros(1)], {}, ())  # a compiled loop takes a third of a second to be there, the next ones nothing
        serve(sys.stdin.buffer, lambda content: write_message(answers, content))


def serve(requests: IO[bytes], answer: Callable[[bytes], None]) -> None:
    """Answer all requests of a stream: with a table, or with nothing where it can't be made."""
    prepared: Prepared | None = None
    while (content := read_message(requests)) is not None:
        message = received(content)
        if isinstance(message, Prepared):
            prepared = message
            continue
        assert prepared is not None
        try:
            made = written(Task(prepared, *message).table())
        except Exception:  # noqa: BLE001  whoever asked tries for himself, and has the error where it can be told
            made = b""
        answer(made)


def read_message(stream: IO[bytes]) -> bytes | None:
    """The next message; None where the stream ends."""
    head = stream.read(SIZE_BYTES)
    size = int.from_bytes(head, "little")
    if len(head) < SIZE_BYTES:
        return None
    content = stream.read(size)
    return content if len(content) == size else None


def write_message(stream: IO[bytes], content: bytes) -> None:
    """Write a message."""
    stream.write(len(content).to_bytes(SIZE_BYTES, "little"))
    stream.write(content)
    stream.flush()
