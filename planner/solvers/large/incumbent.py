"""The best choice that any thread found, and its way to whoever waits for it.

In: choices of the flat model that fit at all times. Out: choices of the reduced problem, through `offer`.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from planner.core.problem import INFINITE_COST
from planner.solvers.large.flat import FlatModel, Ints, choice_of
from planner.solvers.large.merge import Member, Merged
from planner.solvers.reduce import Reduction

REPORT_S = 2.0
"""Seconds between reports of better choices: the referee takes a while over one."""

Offer = Callable[[tuple[int, ...], int], int]
"""Called with a choice of the reduced problem and the bound so far; returns the exact cost."""


@dataclass
class Large:
    """One search: the model, its prices, and the best choice that any thread found."""

    reduction: Reduction
    merged: Merged
    model: FlatModel
    offer: Offer
    seed: int = 0
    bound: int = 0
    best: Ints | None = None
    cost: float = np.inf
    offered: float = np.inf
    told: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)
    telling: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def members(self) -> list[Member]:
        """Every node as a function of a merged one."""
        return self.merged.members()

    @property
    def is_closed(self) -> bool:
        """Whether the best choice is proven to be."""
        return self.cost <= self.bound

    def learn(self, choice: Ints, cost: float) -> None:
        """Take note of a choice that fits at all times."""
        with self.lock:
            if cost < min(self.cost, INFINITE_COST):
                self.best, self.cost = choice.copy(), cost

    def prove(self, bound: int) -> None:
        """Take note of a lower bound on every choice that fits; `INFINITE_COST` says that there is none."""
        with self.lock:
            self.bound = max(self.bound, bound)

    def report(self, *, last: bool = False) -> None:
        """Offer the best choice, if it is new and the last report was a while ago."""
        if self.best is None or self.cost >= self.offered or not (last or self._is_time()):
            return
        if not self.telling.acquire(blocking=last):
            return
        try:
            with self.lock:
                best, self.offered = self.best, self.cost
            picks = choice_of(self.members, self.model, best)
            self.offer(tuple(picks[v] for v in self.reduction.work.remaining()), self.bound)
            self.told = time.perf_counter()
        finally:
            self.telling.release()

    def _is_time(self) -> bool:
        return time.perf_counter() - self.told > REPORT_S
