"""Steps in turn on a machine that others use too: a disturbed step is followed by waiting, and the calmest steps count.

A plan takes a few steps when its turn comes, of which the first, which finds the caches full of other plans, doesn't
count.

What others took is told by the kernel: time that all programs, and other virtual machines, kept cores busy, less this
one's own. Where the kernel doesn't tell, nothing counts as disturbed.

In: compiled plans. Out: seconds of the steps that count, and how much of the machine others had in them.
"""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from recipes import Running

CALM = 0.06
"""A step counts where others took less than this part of the machine. [chosen: under half of the error that the figures
are to tell]"""

BURST = 3
"""Steps of a plan's turn, after the one that doesn't count."""

PEEK_S = 0.1
"""How long others are watched before a step."""


@dataclass(frozen=True)
class Steps:
    """Steps of one plan: seconds of each, and the median share of the machine that other programs took."""

    seconds: tuple[float, ...]
    disturbed: float


class Machine:
    """The share of the machine that others take while something is done, and waiting for it to fall.

    Args:
      patience_s: how long to wait for quiet in all; after that, steps are taken as they come.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._calm = False

    def step(self, running: Running) -> tuple[float, float]:
        """(share that others took, seconds) of one step, in a quiet moment if there is one."""
        while not self._calm and self._patience_s > 0:
            self._calm = self._watch(_peek)[0] < CALM
            self._patience_s -= 0.0 if self._calm else PEEK_S
        share, seconds = self._watch(running.once)
        self._calm = share < CALM
        return share, seconds

    @property
    def patient(self) -> bool:
        """Whether there is time left to wait."""
        return self._patience_s > 0

    @staticmethod
    def _watch(act: Callable[[], float]) -> tuple[float, float]:
        busy, own = busy_s(), time.process_time()
        seconds = act()
        others = (busy_s() - busy) - (time.process_time() - own)
        return max(0.0, others / (seconds * (os.cpu_count() or 1))), seconds


def _peek() -> float:
    began = time.perf_counter()
    time.sleep(PEEK_S)
    return time.perf_counter() - began


def least_disturbed(running: Mapping[str, Running], wanted: int, patience_s: float) -> dict[str, Steps]:
    """The `wanted` calmest steps of each plan. Rounds turn by one each, for who follows whom matters to caches; a plan
    drops out once it has enough calm steps, and all do once patience is at its end and each has been run as often."""
    names, machine = list(running), Machine(patience_s)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}

    def lacks(name: str) -> bool:
        steps = found[name]
        return len(steps) < wanted or (machine.patient and sum(share < CALM for share, _ in steps) < wanted)

    n = 0
    while any(lacks(name) for name in names):
        for name in names[n % len(names):] + names[:n % len(names)]:
            if lacks(name):
                running[name].once()
                found[name] += [machine.step(running[name]) for _ in range(BURST)]
        n += 1
    return {name: _calmest(steps, wanted) for name, steps in found.items()}


def _calmest(steps: list[tuple[float, float]], wanted: int) -> Steps:
    calm = [s for s in steps if s[0] < CALM]
    kept = calm if len(calm) >= wanted else sorted(steps)[:wanted]
    return Steps(tuple(seconds for _, seconds in kept), statistics.median(share for share, _ in kept))


def busy_s() -> float:
    """Seconds that programs have kept cores busy since the machine started; 0 where that is not told."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, _, _, stolen, *_ = (int(n) for n in stat.read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + stolen) / os.sysconf("SC_CLK_TCK")
