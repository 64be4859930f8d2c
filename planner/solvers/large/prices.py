"""Prices on memory at each time, raised where picks are over the limit, with the messages following along.

cost + sum_t price_t (usage_t - room_t) is at most the cost of any choice within the limit; its minimum over all choices
is bounded by message passing (see `sweeps`), and prices move to raise that bound. The direction is a running average of
the usages of what each node would pick by itself (Barahona and Anbil's volume algorithm, 2000); steps are Polyak's,
towards a target a little above the best bound. First the steps shrink on a fixed schedule, which finds the region of
the best prices whatever the scale of the problem; then targets follow success and failure (a level method), which
converges.

In: a `FlatModel`. Out: `Prices`, the best found, and the roundings made on the way, through `see`.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from planner.solvers.large.flat import FlatModel, Floats, Ints
from planner.solvers.large.sweeps import Messages, bound, no_messages, rent, sweep

WARM_UP = 20
"""Sweeps before prices move: the first picks are poor guides [fitted on contest instance G]."""

FIRST_STEP, LAST_STEP = 0.05, 1e-4
"""Part of the bound by which a step of the first phase may raise it, at its beginning and end [fitted on A, M, S]."""

MEMORIES = (0.9, 0.8)
"""Weights of the past in the running average of usages, one a thread [fitted on A, M, S: 0.9 is best for S, 0.7 to 0.9
for A and M]."""

TURN = 0.5
"""Part of the time for the first phase."""

SHRINK, PATIENCE = 0.7, 20
"""In the second phase the target comes closer by SHRINK after PATIENCE sweeps without success [fitted on A and M]."""

See = Callable[[Ints, Ints, float, float], None]
"""Called with each rounding, its usage, its value under the prices (cost + rent - sum of price * room), and its
cost."""


@dataclass
class Prices:
    """The best prices found, per unit of memory and grid time; their bound; the messages that prove it."""

    prices: Floats
    bound: float
    messages: Messages


class PriceSearch:
    """The search for prices, one step at a time."""

    def __init__(self, model: FlatModel, memory: float) -> None:
        self.model = model
        self.memory = memory
        self.unit = float(max(1, np.abs(model.room).max(initial=1)))
        self.room = model.room / self.unit
        self.messages = no_messages(model)
        self.prices = np.zeros(len(model.room))  # per `unit` of memory
        self.costs = model.graph.costs
        self.sweeps = 0
        self.average: Floats | None = None
        self.best = Prices(self.prices, -np.inf, self.messages)
        self.now = -np.inf

    def step(self, see: See) -> None:
        """One sweep, and note of the best."""
        picks, alone, total = sweep(self.model, self.messages, self.costs, forward=self.sweeps % 2 == 0)
        self.sweeps += 1
        rented = float((self.prices * self.room).sum())
        self.now = total - rented
        if self.now > self.best.bound:
            self.best = Prices(self.prices, self.now, self.messages.copied())
        usage = self.model.usage(picks)
        cost = self.model.cost(picks)
        see(picks, usage, cost + float((self.prices * (usage / self.unit - self.room)).sum()), cost)
        over = self.model.usage(alone) / self.unit - self.room
        self.average = over if self.average is None else self.memory * self.average + (1 - self.memory) * over

    def move(self, rise: float) -> None:
        """Move prices so that the bound would rise by `rise` if it were linear."""
        slope = self.average
        assert slope is not None
        slope = np.where((slope < 0) & (self.prices <= 0), 0.0, slope)
        if (size := float((slope * slope).sum())) > 0:
            self.prices = np.maximum(0.0, self.prices + rise / size * slope)
            self.costs = self.model.graph.costs + rent(self.model, self.prices / self.unit)

    def back_to_best(self) -> None:
        """Start again from the best prices and messages."""
        self.prices, self.messages, self.average = self.best.prices, self.best.messages.copied(), None
        self.costs = self.model.graph.costs + rent(self.model, self.prices / self.unit)

    def answer(self) -> Prices:
        """The best prices, with a bound that allows for rounding."""
        prices = self.best.prices / self.unit
        proven = bound(self.model, self.best.messages, self.model.graph.costs + rent(self.model, prices))
        rented = float((prices * self.model.room).sum())
        magnitude = float((prices * np.abs(self.model.room)).sum())
        return Prices(prices, proven - rented - 1e-12 * magnitude, self.best.messages)


def search_prices(
    model: FlatModel,
    deadline: float,
    see: See,
    *,
    threads: int = 1,
    meanwhile: Callable[[Prices, threading.Event], None] | None = None,
    most_sweeps: int = 10_000,
) -> Prices:
    """Both phases, by the deadline in terms of `time.perf_counter()`.

    Args:
      see: see `See`; with more than one thread it is called from two at a time.
      threads: with more than one, the first phase is tried with several memories side by side.
      meanwhile: called with the first phase's prices, for the threads that the second leaves idle; the event tells
        that it has ended.
      most_sweeps: end after about that many even if there is time.
    """
    began = time.perf_counter()
    until = began + TURN * (deadline - began)

    def turn(memory: float) -> PriceSearch:
        return _first_phase(model, memory, until, see, int(TURN * most_sweeps))

    with ThreadPoolExecutor(threads) as pool:
        turns = list(pool.map(turn, MEMORIES[:threads]))
        best = max(turns, key=lambda state: state.best.bound)
        best.back_to_best()
        so_far = best.answer()
        level = pool.submit(_level, best, deadline, see, most_sweeps)
        if threads > 1 and meanwhile is not None:
            ended = threading.Event()
            level.add_done_callback(lambda _: ended.set())
            meanwhile(so_far, ended)
        level.result()
    return best.answer()


def _first_phase(model: FlatModel, memory: float, deadline: float, see: See, most_sweeps: int) -> PriceSearch:
    state = PriceSearch(model, memory)
    for _ in range(WARM_UP):
        state.step(see)
    began, part = time.perf_counter(), 0.0
    while len(model.room) and part < 1:
        state.move(FIRST_STEP * (LAST_STEP / FIRST_STEP) ** part * max(abs(state.best.bound), 1.0))
        state.step(see)
        spent = (time.perf_counter() - began) / max(deadline - began, 1e-9)
        part = max(spent, (state.sweeps - WARM_UP) / most_sweeps)
    return state


def _level(state: PriceSearch, deadline: float, see: See, most_sweeps: int) -> None:
    aim = 0.01 * max(abs(state.best.bound), 1.0)
    mark, waited = state.best.bound, 0
    while time.perf_counter() < deadline and state.sweeps < most_sweeps and aim > 1e-7 * abs(state.best.bound):
        state.step(see)
        if state.best.bound > mark + 0.5 * aim:
            mark, waited = state.best.bound, 0
        waited += 1
        if waited > PATIENCE:
            aim, waited, mark = SHRINK * aim, 0, state.best.bound
            if len(state.room):
                state.back_to_best()
        elif len(state.room):
            state.move(state.best.bound + aim - state.now)
