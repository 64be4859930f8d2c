"""Bound and good solutions by message passing, with prices on memory.

Costs may be moved between a node and its edges without changing any total; the sum of all minima is then a lower bound
on every solution, and moving costs so that this sum grows is dual ascent. Sweeps run over the nodes in order, forth and
back: a node takes what its edges to earlier nodes can spare, row by row, and spreads what it has over its edges to
later ones (SRMP, Kolmogorov 2015; on pairwise problems TRW-S, 2006). On the way each node picks the strategy that is
best given the earlier picks and the messages of the later nodes, which is often a very good solution.

The memory limit enters as prices: cost + sum_t price_t (usage_t - limit) is at most the cost of any solution within the
limit, so the bound holds for all prices >= 0. They follow a subgradient: up where the sweep's pick is over the limit.

Everything is kept in multiples of a power of two, chosen so that sums are exact in floats: the bound is exact but for
the products of prices and limit, for which a relative 10^-9 is taken off.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.core.problem import INFINITE_COST, Problem
from planner.solvers.live import Ints, MemoryTimes
from planner.solvers.reductions.parallel_edges import merged_edges, saturated

Floats = NDArray[np.float64]

EXACT_BITS = 49
"""Costs span at most 2^49 quanta, which leaves four bits of a float's 53 for sums of a few of them."""

FIRST_STEP = 0.05
"""Part of the bound by which one price step may raise it [fitted on contest instance G]."""

SETTLED = 20
"""Sweeps before prices move: the first picks are poor guides [fitted on contest instance G]."""


@dataclass(frozen=True, slots=True)
class Ascended:
    """How far the ascent came: a proven lower bound on the cost of every solution, and the sweeps it took."""

    bound: int
    sweeps: int


class Ascent:
    """The costs as they stand, moved about.

    Attributes:
      unary: per node, [strategies].
      edges: (a, b) -> [strategies of a, strategies of b].
      most: no solution costs more; a bound over it proves that there is none.
      ceiling: a power of two over `most`: what a forbidden choice costs here.
      quantum: all costs are multiples of it, rounded down.
      around: per node, (neighbour, the edge's matrix with this node's strategies as rows: a view of `edges`).
      prices: per time of `memory`.
    """

    def __init__(self, problem: Problem) -> None:
        costs = [saturated(node.costs) for node in problem.nodes]
        tables = merged_edges(problem)
        self.most = sum(_largest(c) for c in costs) + sum(_largest(t) for t in tables.values())
        self.ceiling = 2.0 ** math.ceil(math.log2(max(self.most, 2) + 1))
        self.quantum = self.ceiling / 2.0**EXACT_BITS
        self.original_unary = [self._quantised(c) for c in costs]
        self.original_edges = {pair: self._quantised(t) for pair, t in tables.items()}
        self.unary = [c.copy() for c in self.original_unary]
        self.edges = {pair: t.copy() for pair, t in self.original_edges.items()}
        self.around: list[list[tuple[int, Floats]]] = [[] for _ in costs]
        for (a, b), table in self.edges.items():
            self.around[a].append((b, table))
            self.around[b].append((a, table.T))
        self.memory = MemoryTimes(problem)
        self.prices = np.zeros(len(self.memory.times))
        self.priced = [np.zeros(len(c)) for c in costs]

    def sweep(self, *, forward: bool) -> Ints:
        """Move costs along the order of the nodes (or back); the picks made on the way."""
        picks = np.zeros(len(self.unary), dtype=np.int64)
        for v in range(len(self.unary)) if forward else reversed(range(len(self.unary))):
            own = self.unary[v]
            given = own.copy()
            later: list[Floats] = []
            for u, table in self.around[v]:
                spare = table.min(axis=1)
                if (u < v) == forward:
                    given += table[:, picks[u]]
                    own = own + spare
                    np.subtract(table, spare[:, None], out=table)
                else:
                    given += spare
                    later.append(table)
            picks[v] = given.argmin()
            if later:
                # Never more than the ceiling, so that sums stay exact; to lower a cost keeps the bound valid.
                own = np.minimum(own, self.ceiling)
                shares = max(len(later), len(self.around[v]) - len(later))
                share = np.floor(own / (shares * self.quantum)) * self.quantum
                for table in later:
                    np.add(table, share[:, None], out=table)
                    if share.max() > self.ceiling / 8:
                        np.minimum(table, 4 * self.ceiling, out=table)
                own = own - len(later) * share
            self.unary[v] = own
        return picks

    def bound(self) -> float:
        """Lower bound on the cost of every solution within the limit."""
        rent = float(self.prices.sum()) * self.memory.limit
        total = sum(float(c.min()) for c in self.unary) + sum(float(t.min()) for t in self.edges.values())
        return total - rent - 1e-9 * rent

    def set_prices(self, prices: Floats) -> None:
        """Charge memory at these prices from now on."""
        self.prices = prices
        for v, price in enumerate(self.memory.node_prices(prices)):
            charge = np.floor(price * self.memory.usages[v] / self.quantum) * self.quantum
            self.unary[v] = self.unary[v] + (charge - self.priced[v])
            self.priced[v] = charge

    def cost(self, picks: Ints) -> float:
        """Cost of a choice, memory aside; a little low where costs were rounded."""
        total = sum(float(c[i]) for c, i in zip(self.original_unary, picks.tolist(), strict=True))
        return total + sum(float(t[picks[a], picks[b]]) for (a, b), t in self.original_edges.items())

    def _quantised(self, costs: Ints) -> Floats:
        rounded = np.floor(costs / self.quantum) * self.quantum
        return np.where(costs >= INFINITE_COST, self.ceiling, rounded)


def ascend(
    state: Ascent,
    offer: Callable[[tuple[int, ...], int], int],
    *,
    deadline: float,
    patience: int,
) -> Ascended:
    """Sweep until the bound meets the best cost, `patience` sweeps bring little, or time is up.

    Without any solution it ends after five times `patience`.

    Args:
      state: the costs; on return they are as they were when the ascent ended.
      offer: called with every choice within the limit that seems better than those before, and the bound so far;
        returns the exact cost.
      deadline: in terms of `time.perf_counter()`.
      patience: sweeps without a better solution, or without closing a hundredth of the gap, before giving up.
    """
    best_cost: int | None = None
    bound = sweeps = mark_sweep = 0
    mark = 0.0
    while time.perf_counter() < deadline:
        picks = state.sweep(forward=sweeps % 2 == 0)
        sweeps += 1
        now = state.bound()
        bound = max(bound, math.ceil(now - 1e-6))
        if bound > state.most:
            return Ascended(INFINITE_COST, sweeps)
        usage = state.memory.usage(picks)
        rough = state.cost(picks)
        if (usage <= state.memory.limit).all() and rough < (state.ceiling if best_cost is None else best_cost):
            exact = offer(tuple(picks.tolist()), bound)
            if best_cost is None or exact < best_cost:
                best_cost, mark_sweep = exact, sweeps
        if best_cost is not None and bound >= best_cost:
            break
        if best_cost is None and sweeps >= 5 * patience:
            break
        if now > mark + 0.01 * ((rough if best_cost is None else best_cost) - now):
            mark, mark_sweep = now, sweeps
        elif sweeps - mark_sweep >= patience:
            break
        if sweeps >= SETTLED:
            _reprice(state, usage, FIRST_STEP * max(now, 1.0) * SETTLED / sweeps)
    return Ascended(bound, sweeps)


def _reprice(state: Ascent, usage: Ints, aim: float) -> None:
    """One subgradient step that would raise the bound by `aim` if the picks stayed as they are."""
    slope = (usage - state.memory.limit).astype(np.float64)
    slope[(slope < 0) & (state.prices <= 0)] = 0.0
    if slope.any():
        state.set_prices(np.maximum(0.0, state.prices + aim / float(slope @ slope) * slope))


def _largest(costs: Ints) -> int:
    """The largest allowed cost."""
    return int(costs[costs < INFINITE_COST].max(initial=0))
