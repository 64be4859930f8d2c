"""Planning makes millions of small objects that stay: looking through them for cycles again and again takes a tenth of
the time. While something is planned, Python looks far less often.

In: nothing. Out: a context; the process's own setting is back after it.
"""

import gc
from collections.abc import Generator
from contextlib import contextmanager

SELDOM = (100_000, 50, 1000)
"""Objects made before the youngest are looked through, and how many times that before older ones are. [measured: 11.2 s
of GPT-39B's replan became 8.6, of which it never looking saves nothing more]"""


@contextmanager
def seldom_collected() -> Generator[None]:
    """Cycles are looked for seldom inside. What is entered twice, by threads or by a plan that asks for others, is left
    as it is by the second."""
    before = gc.get_threshold()
    if before == SELDOM or not gc.isenabled():
        yield
        return
    gc.set_threshold(*SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)
