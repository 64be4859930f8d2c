"""Search for large problems: prices and roundings first, then tree moves from the best of them, until the deadline.

In: a `Reduction`. Out: a `Found`; every better choice goes to `offer`.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from planner.core.problem import INFINITE_COST
from planner.solvers.large.exact import eliminate_merged, is_exact_tried, solve_exactly
from planner.solvers.large.flat import FlatModel, Floats, Ints, flatten
from planner.solvers.large.incumbent import Large, Offer
from planner.solvers.large.merge import Merged, merge
from planner.solvers.large.prices import Prices, search_prices
from planner.solvers.large.prune import prune, remove_forbidden
from planner.solvers.large.rounding import Starts, first_roundings, more_roundings
from planner.solvers.large.usage import memory_of
from planner.solvers.large.walk import anneal
from planner.solvers.reduce import Reduction
from planner.solvers.waiting import wait_for

PRICES_SHARE = 0.35
"""Part of the time for prices: bounds and roundings have nearly settled by then on A, M, S."""

THOROUGH_S = 30.0
"""With less time than this, choices that others can replace stay: to find them takes 5 s on S, and they are few."""

HEAD_START = 0.1
"""Part of the time that tree moves get before CP-SAT, where it is tried."""


@dataclass(frozen=True, slots=True)
class Found:
    """A proven bound on the reduced problem (0 if none), and what was done, in a few words."""

    bound: int
    did: str


class _StoppedError(Exception):
    """The search was asked to stop while prices were sought."""


def search_large(reduction: Reduction, offer: Offer, *, deadline: float, threads: int = 1, seed: int = 0) -> Found:
    """Search until the deadline (in terms of `time.perf_counter()`) or until the bound is met.

    The search runs in a thread of its own, as Ctrl-C would break into compiled code otherwise: that ends the search
    with a last offer, then is raised again.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        try:  # around the submission, too: what is found first may be told before that returns
            return wait_for(pool.submit(_search, reduction, offer, deadline, threads, seed, stop))
        finally:
            stop.set()


def _search(
    reduction: Reduction, offer: Offer, deadline: float, threads: int, seed: int, stop: threading.Event
) -> Found:
    began = time.perf_counter()
    built = build(reduction, thorough=deadline - began > THOROUGH_S, deadline=deadline)
    if built is None:
        return Found(0, "no time to merge")
    merged, model = built
    large = Large(reduction, merged, model, offer, seed)
    roundings = Starts(model.room)
    one_at_a_time = threading.Lock()

    def see(picks: Ints, usage: Ints, value: float, cost: float) -> None:
        with one_at_a_time:
            roundings.see(picks, usage, value, cost)
        if cost < large.cost and (usage <= model.room).all():
            large.learn(picks, cost)
        large.report()
        if stop.is_set() or time.perf_counter() > deadline:
            raise _StoppedError

    until = began + PRICES_SHARE * (deadline - began)

    def walk_already(prices: Prices, ended: threading.Event) -> None:
        large.prove(_as_bound(model, prices.bound))
        if roundings.best:
            anneal(large, prices, roundings.best, until, threads - 1, ended)

    try:
        eliminate_merged(large)
        if large.is_closed or large.bound >= INFINITE_COST:
            large.report(last=True)
            return Found(large.bound, f"merged into {model.nodes} nodes; elimination")
        first_roundings(model, see, lambda: large.best is not None)
        prices = search_prices(model, until, see, threads=threads, meanwhile=walk_already)
        large.prove(_as_bound(model, prices.bound))
        now = time.perf_counter()
        last = more_roundings(model, prices, see, now + PRICES_SHARE * (deadline - now))
        starts = [*([] if large.best is None else [large.best]), *roundings.best, *last]
        did = "prices; trees"
        if is_exact_tried(model):
            anneal(large, prices, starts, time.perf_counter() + HEAD_START * (deadline - began), threads, stop)
            solve_exactly(large, prices, deadline, threads, stop)
            did += "; CP-SAT"
        else:
            anneal(large, prices, starts, deadline, threads, stop)
    except _StoppedError:
        did = "stopped"
    large.report(last=True)
    return Found(large.bound, f"merged into {model.nodes} nodes; {did}")


def _as_bound(model: FlatModel, bound: float) -> int:
    """A float that is proven to be a bound, as a cost; one over all costs that there are proves that nothing fits."""
    graph = model.graph
    if bound > _most(graph.costs, graph.offset[:-1]) + _most(graph.tables, graph.start):
        return INFINITE_COST
    return max(0, int(np.ceil(bound - 1e-6 - 1e-15 * abs(bound))))


def _most(costs: Floats, starts: Ints) -> float:
    """The largest allowed cost of each stretch, added up."""
    if not len(starts):
        return 0.0
    return float(np.maximum.reduceat(np.where(costs < INFINITE_COST, costs, 0.0), starts).sum())


def build(
    reduction: Reduction, *, thorough: bool = True, deadline: float = float("inf")
) -> tuple[Merged, FlatModel] | None:
    """Merge and flatten; if thorough, remove choices that others can replace as well. None if time runs out."""
    merged = merge(reduction.work, deadline=deadline)
    if time.perf_counter() > deadline:
        return None
    remove_forbidden(merged)
    grid, uses = memory_of(reduction.work, merged)
    if thorough and prune(merged, uses):
        grid, uses = memory_of(reduction.work, merged)
    return merged, flatten(merged, grid, uses)
