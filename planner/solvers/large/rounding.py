"""Choices read off the messages: the first that fits, more of them under dearer memory, and the best to start from.

In: a `FlatModel`, `Prices`; every rounding goes to `see`. Out: starts for local search.
"""

import time
from collections.abc import Callable

import numpy as np

from planner.core.problem import INFINITE_COST
from planner.solvers.large.flat import FlatModel, Ints
from planner.solvers.large.prices import Prices, See
from planner.solvers.large.sweeps import no_messages, rent, sweep

STARTS = 6
"""Roundings kept."""

DEARER = (1.0, 1.01, 1.02, 1.05, 1.1, 1.3, 3.0)
"""More roundings are made at these multiples of the best prices: dearer memory leads to choices that fit."""

ROUNDINGS = 100
"""Sweeps at each: what they pick gets better as messages settle."""

QUICK = 10
"""Sweeps at each price until something fits."""

EVEN = (0.0, 1.0, 10.0, 100.0, 1e4, 1e6)
"""Prices tried then, the same at all times: multiples of the bound per unit of room."""


def first_roundings(model: FlatModel, see: See, is_enough: Callable[[], bool]) -> None:
    """Find something that fits before prices are known: memory alike at all times, dearer and dearer."""
    messages = no_messages(model)
    even = total = 0.0
    for scale in EVEN:
        costs = model.graph.costs + rent(model, np.full(len(model.room), scale * even))
        for n in range(QUICK):
            picks, _, total = sweep(model, messages, costs, forward=n % 2 == 0)
            see(picks, model.usage(picks), 0.0, model.cost(picks))
        if is_enough():
            return
        even = even or max(1.0, abs(total)) / max(1.0, float(np.abs(model.room).sum()))


class Starts:
    """The cheapest roundings seen that fit, and the one that is over the limit by least, should none fit."""

    def __init__(self, room: Ints) -> None:
        self._room = room
        self._kept: list[tuple[float, Ints]] = []
        self._nearest: tuple[int, Ints] | None = None

    def see(self, picks: Ints, usage: Ints, value: float, cost: float) -> None:
        """Note a rounding if it is among the best."""
        if not value < INFINITE_COST:
            return
        over = int((usage - self._room).max(initial=0))
        if self._nearest is None or over < self._nearest[0]:
            self._nearest = over, picks
        full = len(self._kept) == STARTS
        if over == 0 and not (full and cost >= self._kept[-1][0]) and all(cost != other for other, _ in self._kept):
            self._kept = sorted([*self._kept, (cost, picks)], key=lambda pair: pair[0])[:STARTS]

    @property
    def best(self) -> list[Ints]:
        """At most `STARTS`, cheapest first."""
        if not self._kept and self._nearest is not None:
            return [self._nearest[1]]
        return [picks for _, picks in self._kept]


def more_roundings(model: FlatModel, prices: Prices, see: See, deadline: float) -> list[Ints]:
    """Sweep on under multiples of the best prices, and show what is picked; the last picks of each."""
    even = max(1.0, abs(prices.bound)) / max(1.0, float(np.abs(model.room).sum()))
    last: list[Ints] = []
    for scale in DEARER:
        costs = model.graph.costs + rent(model, scale * prices.prices + (max(scale, 2.0) - 2.0) * even)
        messages = prices.messages.copied()
        picks = last[-1] if last else np.zeros(model.nodes, dtype=np.int64)
        for n in range(ROUNDINGS):
            picks = sweep(model, messages, costs, forward=n % 2 == 0).picks
            see(picks, model.usage(picks), 0.0, model.cost(picks))
            if time.perf_counter() > deadline:
                break
        last.append(picks)
    return last[:: len(last) - 1]
