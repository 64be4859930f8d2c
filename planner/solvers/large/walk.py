"""Annealing by tree moves: from many starts shortly, then in rounds from the best of them until the deadline. Every
other round is spent on restarts from other parts of the space.

In: a `Large`, `Prices` and starts. Out: what the walks find, learnt by the `Large`. With more than one thread, each
walks from its own start with its own random numbers (the compiled loops release the GIL); after a round the best walk
takes what is better in the others' (`relink`), and after every other round all go on from there.
"""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from planner.core.problem import INFINITE_COST
from planner.solvers.large.flat import Floats, Ints
from planner.solvers.large.incumbent import Large
from planner.solvers.large.perturb import perturbed
from planner.solvers.large.prices import Prices
from planner.solvers.large.relink import relink
from planner.solvers.large.sweeps import rent
from planner.solvers.large.trees import Moves, Place, search_trees
from planner.solvers.large.watch import peaks, watch

STARTS_SHARE = 0.2
"""Part of the time for short searches from each of the best roundings."""

HEAT = 0.02
"""Part of the gap between cost and bound that a move may cost at first: a scale that every problem has [on A, M, S and
on variants of them with other limits and costs, this is among the best of 2e-5 to 0.1 of the bound]."""

START_FACTOR = 0.05
"""For starts, whose gap is wide: down quickly, to tell which is good."""

FACTORS = (0.5, 0.1, 2.0)
"""Multiples of `HEAT`, a round each, in turn; threads begin at different places."""

ROUNDS = 8
"""Rounds from the best starts, of which every other is spent on restarts."""

RESTARTS = 8
"""Restarts in a round."""

LARGEST = 60
"""Nodes of the largest tree [fitted on A, M, S: 12 to 300 alike]."""

CHUNK = 2000
"""Moves between looks at the clock and at unwatched times: some 40 ms."""

HARDER, SOFTER = 1.2, 0.98
"""By these the penalty on memory over the limit changes after a chunk that ends over it, or within it."""


def anneal(
    large: Large, prices: Prices, starts: Sequence[Ints], deadline: float, threads: int, stop: threading.Event
) -> None:
    """Short searches from all starts, then rounds from the best."""
    began = time.perf_counter()
    rents = rent(large.model, prices.prices)
    walks = [Walk(large, prices, rents, start, 1000 * large.seed + n) for n, start in enumerate(starts)]
    with ThreadPoolExecutor(threads) as pool:
        each = STARTS_SHARE * (deadline - began) * threads / len(walks)
        _wait(large, [pool.submit(walk.run, START_FACTOR, each, deadline, stop) for walk in walks], deadline)
        walks = sorted(walks, key=lambda walk: walk.best_cost)[:threads]
        for n in range(ROUNDS):
            each = (deadline - time.perf_counter()) / (ROUNDS - n)
            jobs = [
                pool.submit(walk.restart, each, deadline, stop)
                if (n + k) % 2
                else pool.submit(walk.run, FACTORS[n // 2 % len(FACTORS)], each, deadline, stop)
                for k, walk in enumerate(walks)
            ]
            _wait(large, jobs, deadline)
            walks.sort(key=lambda walk: walk.best_cost)
            for walk in walks[1:]:
                walks[0].learn_from(walk)
            if n % 2:
                for walk in walks[1:]:
                    walk.follow(walks[0])


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
        self.large, self.prices, self.rents, self.seed = large, prices, rents, seed * 2**32
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

    def run(self, factor: float, seconds: float, deadline: float, stop: threading.Event) -> None:
        """Anneal from a multiple of `HEAT` down to nothing within the seconds given, from the best so far."""
        began = time.perf_counter()
        if self.good is not None:
            self._watch(self.good.copy())
        cost = self.best_cost if self.good is not None else self.large.model.cost(self.place.choice)
        heat = factor * HEAT * max(1.0, min(cost, INFINITE_COST) - self.large.bound)
        while not (stop.is_set() or self.large.is_closed):
            now = time.perf_counter()
            part = (now - began) / max(seconds, 1e-9)
            if part >= 1 or now >= deadline:
                break
            moves = Moves(CHUNK, LARGEST, heat * max(0.0, 1 - 1.1 * part) ** 3, 0.5, self.penalty)
            self.seed += 1
            search_trees(self.model, self.place, self.rents, moves, self.seed)
            self._check()

    def restart(self, seconds: float, deadline: float, stop: threading.Event) -> None:
        """Short walks from perturbed starts, each of which leaves here what it did better."""
        until = min(deadline, time.perf_counter() + seconds)
        rng = np.random.default_rng(self.seed)
        costs: Floats = self.large.model.graph.costs + self.rents
        while not (stop.is_set() or self.large.is_closed) and time.perf_counter() < until:
            gap = max(1.0, min(self.best_cost, INFINITE_COST) - self.large.bound)
            start = perturbed(self.large.model, self.prices, costs, gap, rng)
            if start is not None:
                other = Walk(self.large, self.prices, self.rents, start, int(rng.integers(1 << 31, dtype=np.int64)))
                other.run(START_FACTOR, seconds / RESTARTS, until, stop)
                self.learn_from(other)

    def learn_from(self, other: "Walk") -> None:
        """Of this walk's best choice and another's, take the better one, and what is better in the other."""
        if other.good is None:
            return
        better, worse = other.good, self.good
        if worse is not None and self.best_cost <= other.best_cost:
            better, worse = worse, better
        mixed = better if worse is None else relink(self.large.model, better, worse)
        cost = self.large.model.cost(mixed)
        if cost < self.best_cost:
            self.good, self.best_cost = mixed, cost
            self.large.learn(mixed, cost)

    def follow(self, other: "Walk") -> None:
        """Go on from another walk's best choice."""
        if other.good is not None:
            self.good, self.best_cost = other.good.copy(), other.best_cost
            self.times = np.union1d(self.times, other.times)

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
