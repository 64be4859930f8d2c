"""Search for large problems: prices and roundings first, then tree moves from the best of them, until the deadline.

In: a `Reduction`. Out: a `Found`; every better choice goes to `offer`. With more than one thread, each anneals from its
own start with its own random numbers (the compiled loops release the GIL).
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import numpy as np

from planner.core.problem import INFINITE_COST
from planner.solvers.large.flat import FlatModel, Floats, Ints, choice_of, flatten
from planner.solvers.large.merge import Merged, merge
from planner.solvers.large.prices import Prices, See, search_prices
from planner.solvers.large.prune import prune, remove_forbidden
from planner.solvers.large.sweeps import rent, sweep
from planner.solvers.large.trees import Moves, Place, search_trees
from planner.solvers.large.usage import memory_of
from planner.solvers.large.watch import peaks, watch
from planner.solvers.reduce import Reduction

PRICES_SHARE = 0.35
"""Part of the time for prices: bounds and roundings have nearly settled by then on A, M, S."""

STARTS_SHARE = 0.2
"""Part of the time for short searches from each of the best roundings."""

STARTS = 6
"""Roundings kept."""

DEARER = (1.0, 1.01, 1.02, 1.05, 1.1, 1.3, 3.0)
"""More roundings are made at these multiples of the best prices: dearer memory leads to choices that fit."""

ROUNDINGS = 100
"""Sweeps at each: what they pick gets better as messages settle."""

TEMPERATURE = 2e-5
"""Part of the bound that a move may cost at first [fitted on A, M, S: 1e-3 is too hot, 1e-5 to 1e-4 alike]."""

LARGEST = 60
"""Nodes of the largest tree [fitted on A, M, S: 12 to 300 alike]."""

CHUNK = 2000
"""Moves between looks at the clock and at unwatched times: some 40 ms."""

HARDER, SOFTER = 1.2, 0.98
"""By these the penalty on memory over the limit changes after a chunk that ends over it, or within it."""

REPORT_S = 2.0
"""Seconds between reports of better choices: the referee takes a while over one."""

Offer = Callable[[tuple[int, ...], int], int]
"""Called with a choice of the reduced problem and the bound so far; returns the exact cost."""


@dataclass(frozen=True, slots=True)
class Found:
    """A proven bound on the reduced problem (0 if none), and what was done, in a few words."""

    bound: int
    did: str


@dataclass
class Large:
    """One search: the model, its prices, and the best choice that any thread found."""

    reduction: Reduction
    merged: Merged
    model: FlatModel
    offer: Offer
    bound: int = 0
    best: Ints | None = None
    cost: float = np.inf
    offered: float = np.inf
    told: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_closed(self) -> bool:
        """Whether the best choice is proven to be."""
        return self.cost <= self.bound

    def learn(self, choice: Ints, cost: float) -> None:
        """Take note of a choice that fits at all times."""
        with self.lock:
            if cost < min(self.cost, INFINITE_COST):
                self.best, self.cost = choice.copy(), cost

    def report(self, *, last: bool = False) -> None:
        """Offer the best choice, if it is new and the last report was a while ago."""
        if self.best is None or self.cost >= self.offered:
            return
        if last or time.perf_counter() - self.told > REPORT_S:
            with self.lock:
                best, self.offered = self.best, self.cost
            picks = choice_of(self.merged, self.model, best)
            self.offer(tuple(picks[v] for v in self.reduction.work.remaining()), self.bound)
            self.told = time.perf_counter()


class _StoppedError(Exception):
    """The search was asked to stop while prices were sought."""


def search_large(reduction: Reduction, offer: Offer, *, deadline: float, threads: int = 1) -> Found:
    """Search until the deadline (in terms of `time.perf_counter()`) or until the bound is met.

    The search runs in a thread of its own, as Ctrl-C would break into compiled code otherwise: that ends the search
    with a last offer, then is raised again.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(_search, reduction, offer, deadline, threads, stop)
        try:
            wait([job])
        finally:
            stop.set()
    return job.result()


def _search(reduction: Reduction, offer: Offer, deadline: float, threads: int, stop: threading.Event) -> Found:
    began = time.perf_counter()
    merged, model = build(reduction)
    large = Large(reduction, merged, model, offer)
    starts = _Starts(model.room)

    def see(picks: Ints, usage: Ints, value: float, cost: float) -> None:
        starts.see(picks, usage, value, cost)
        if cost < large.cost and (usage <= model.room).all():
            large.learn(picks, cost)
        large.report()
        if stop.is_set():
            raise _StoppedError

    try:
        until = began + PRICES_SHARE * (deadline - began)
        prices = search_prices(model, until, see)
        large.bound = max(0, int(np.ceil(prices.bound - 1e-6 - 1e-15 * abs(prices.bound))))
        last = _round(model, prices, see, until + PRICES_SHARE * (deadline - until))
        _anneal_all(large, prices, [*starts.best, *last], deadline, threads, stop)
    except _StoppedError:
        pass
    large.report(last=True)
    return Found(large.bound, f"merged into {model.nodes} nodes; prices; trees")


def build(reduction: Reduction) -> tuple[Merged, FlatModel]:
    """Merge and flatten."""
    merged = merge(reduction.work)
    remove_forbidden(merged)
    grid, uses = memory_of(reduction.work, merged)
    if prune(merged, uses):
        grid, uses = memory_of(reduction.work, merged)
    return merged, flatten(merged, grid, uses)


class _Starts:
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


def _round(model: FlatModel, prices: Prices, see: See, deadline: float) -> list[Ints]:
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


def _anneal_all(
    large: Large, prices: Prices, starts: Sequence[Ints], deadline: float, threads: int, stop: threading.Event
) -> None:
    """Short searches from all starts, then long ones from the best."""
    began = time.perf_counter()
    rents = rent(large.model, prices.prices)
    heat = TEMPERATURE * max(1.0, abs(prices.bound))
    walks = [Walk(large, prices, rents, start, seed) for seed, start in enumerate(starts)]
    with ThreadPoolExecutor(threads) as pool:
        each = STARTS_SHARE * (deadline - began) * threads / len(walks)
        _wait(large, [pool.submit(walk.run, heat, each, deadline, stop) for walk in walks], deadline)
        walks.sort(key=lambda walk: walk.best_cost)
        left = deadline - time.perf_counter()
        _wait(large, [pool.submit(walk.run, heat, left, deadline, stop) for walk in walks[:threads]], deadline)


def _wait(large: Large, jobs: Sequence[Future[None]], deadline: float) -> None:
    """Report while the jobs run, and pass on what went wrong in them."""
    while time.perf_counter() < deadline and not all(job.done() for job in jobs):
        time.sleep(0.02)
        large.report()
    for job in jobs:
        job.result()


class Walk:
    """One annealing search, with the times it watches."""

    def __init__(self, large: Large, prices: Prices, rents: Floats, start: Ints, seed: int) -> None:
        self.large, self.rents, self.seed = large, rents, seed * 2**32
        model = large.model
        slack = int(np.abs(model.room).max(initial=0)) // 50
        dear = np.argsort(-prices.prices, kind="stable")[: min(200, int((prices.prices > 0).sum()))]
        self.times = np.unique(np.concatenate([dear, peaks(model.usage(start), model.room, slack)])).astype(np.int64)
        self.good: Ints | None = None
        self.best_cost = np.inf
        if model.fits(start):
            large.learn(start, model.cost(start))
        self.penalty = 2 * float(prices.prices.max(initial=0.0)) or abs(prices.bound) / max(1, slack)
        self._watch(start.copy())

    def _watch(self, choice: Ints) -> None:
        self.model = watch(self.large.model, self.times)
        best = choice if self.good is None else self.good
        self.place = Place(choice, self.model.usage(choice), best.copy(), self.best_cost)

    def run(self, heat: float, seconds: float, deadline: float, stop: threading.Event) -> None:
        """Anneal from `heat` down to nothing within the seconds given."""
        began = time.perf_counter()
        while not (stop.is_set() or self.large.is_closed):
            now = time.perf_counter()
            part = (now - began) / max(seconds, 1e-9)
            if part >= 1 or now >= deadline:
                break
            moves = Moves(CHUNK, LARGEST, heat * max(0.0, 1 - 1.1 * part) ** 3, 0.5, self.penalty)
            self.seed += 1
            search_trees(self.model, self.place, self.rents, moves, self.seed)
            self._check()

    def _check(self) -> None:
        """Look at all times: keep what fits, watch what was missed."""
        full = self.large.model
        self.penalty *= HARDER if (self.place.usage > self.model.room).any() else SOFTER
        missed: list[Ints] = []
        place = self.place
        if place.best_cost < self.best_cost:
            usage = full.usage(place.best)
            if (usage <= full.room).all():
                self.good, self.best_cost = place.best.copy(), full.cost(place.best)
                self.large.learn(self.good, self.best_cost)
            missed.append(peaks(usage, full.room, 0))
        missed.append(peaks(full.usage(place.choice), full.room, 0))
        if any(len(times) for times in missed):
            self.times = np.unique(np.concatenate([self.times, *missed]))
            self._watch(place.choice)
