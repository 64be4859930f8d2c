"""Wait for a job in another thread so that Ctrl-C is heard.

Python handles a signal in the main thread, between two operations; one that comes just before that thread falls asleep
on a lock without a timeout is handled only when it wakes up.
"""

from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")

POLL_S = 0.02
"""Seconds between looks."""


def wait_for(job: "Future[T]", at_each_look: Callable[[], object] = lambda: None) -> T:
    """What the job gives, or the exception that it raises.

    Raises:
      KeyboardInterrupt: Ctrl-C, in the main thread.
    """
    while not job.done():
        wait([job], POLL_S)
        at_each_look()
    return job.result()
