"""A stage as a chain of layers at one price of memory: its best walk, and the price at which that bounds it best.

Layers touch only through boundary states, so min-plus products find the best walk of points exactly. With held bytes at
a price λ, walk cost - λ · room bounds every walk that fits from below; the bound is concave in λ and piecewise linear,
and cutting the lines of two walks, one that is too large and one that is not, finds its maximum in a few steps (the
secant form of Dantzig and Wolfe's column generation). Walking forward and backward also tells, for every point, the
cost of the best walk through it, which removes most points before anything else looks at them.

In: `Points` per layer. Out: `Walk`s, `Dual`.
"""

# In compiled loops an element of an array is a plain number, which its static type doesn't say.
# pyright: reportReturnType=false

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.intraop.points import Array, Points
from planner.solvers.large.compiled import compiled

STEPS = 60
"""Secant steps at most; 5 to 15 are usual. [chosen]"""

Ints = NDArray[np.int64]

RAISES = 6
"""Times that a price is raised eightfold until walks have room; beyond that they have none, or are of no use. [chosen]
"""


@dataclass(frozen=True)
class Walk:
    """A point per layer: rows, and boundary states (one more than layers). `step_s`, `held_bytes`, `peak_bytes` of the
    stage."""

    rows: tuple[int, ...]
    states: tuple[int, ...]
    step_s: float
    held_bytes: float
    peak_bytes: float


@dataclass(frozen=True)
class Dual:
    """The best lower bound on the step time of walks within the memory limit, the price of a byte that gives it, and
    the fastest walk met on the way that fits (None if none did)."""

    bound_s: float
    per_byte_s: float
    walk: Walk | None


class Chain(NamedTuple):
    """The layers of a stage, for compiled loops: `kinds`, [layer], says which are equal; the rest is as in `Points`,
    [kind, row, state before, state after], with no points where a layer has fewer rows or states than another."""

    kinds: Ints
    step_s: Array
    held_bytes: Array
    working_bytes: Array
    sync_bytes: Array


class _Cheapest(NamedTuple):
    """The cheapest row of every kind of layer between two states, [kind, state before, state after]: what it costs, and
    which it is."""

    cost: Array
    row: Ints


def chain(layers: Sequence[Points]) -> Chain:
    """Lay out the points of layers, of which equal ones are the same object."""
    distinct = {id(p): p for p in layers}
    number = {key: n for n, key in enumerate(distinct)}
    shape = (len(distinct), *np.max([p.step_s.shape for p in distinct.values()], axis=0))
    found = [np.full(shape, empty) for empty in (np.inf, 0.0, 0.0, 0.0)]
    for n, p in enumerate(distinct.values()):
        rows, before, after = p.step_s.shape
        for to, own in zip(found, (p.step_s, p.held_bytes, p.working_bytes, p.sync_bytes), strict=True):
            to[n, :rows, :before, :after] = own
    return Chain(np.array([number[id(p)] for p in layers]), *found)


def limited(stage: Chain, most_bytes: float) -> Chain:
    """The points whose working bytes are at most that."""
    return stage._replace(step_s=np.where(stage.working_bytes <= most_bytes, stage.step_s, np.inf))


def priced_walk(stage: Chain, rows: Sequence[int], states: Sequence[int]) -> Walk:
    """Add up a walk."""
    step_s, held, peak = _added_up(stage, np.array(rows), np.array(states))
    return Walk(tuple(rows), tuple(states), step_s, held, peak)


def best_walk(stage: Chain, per_byte_s: float) -> tuple[float, Walk]:
    """The least cost at a price of held bytes, and a walk of that cost."""
    one = _cheapest(stage, per_byte_s)
    return _best_walk(stage, one, one, 0)


def mixed_walk(stage: Chain, prices: tuple[float, float], limit_bytes: float) -> Walk | None:
    """A fast walk that fits, its first layers at the lower price and the rest at the higher, or the other way round.

    Where the price changes is found by bisection, as if less at the lower price always held less.
    """
    low, high = (_cheapest(stage, price) for price in prices)
    best: Walk | None = None
    for low_first in (True, False):
        fitting, beyond = 0, len(stage.kinds) + 1
        while fitting + 1 < beyond:
            n = (fitting + beyond) // 2
            _, walk = _best_walk(stage, low, high, n) if low_first else \
                _best_walk(stage, high, low, len(stage.kinds) - n)
            if walk.peak_bytes > limit_bytes:
                beyond = n
                continue
            fitting = n
            if best is None or walk.step_s < best.step_s:
                best = walk
    return best


def _best_walk(stage: Chain, first: _Cheapest, later: _Cheapest, change: int) -> tuple[float, Walk]:
    """The best walk where layers before `change` have costs of their own."""
    cost, rows, states = _walk(stage.kinds, first, later, change)
    step_s, held, peak = _added_up(stage, rows, states)
    return cost, Walk(tuple(rows.tolist()), tuple(states.tolist()), step_s, held, peak)


def walks_through(layers: Sequence[Points], per_byte_s: float) -> list[Array]:
    """Per layer, [row, state before, state after]: the least cost of a walk through that point, at that price."""
    cheapest = {id(p): p.priced(per_byte_s).min(axis=0) for p in layers}
    upto = [np.zeros(layers[0].step_s.shape[1])]
    for p in layers:
        upto.append(np.min(upto[-1][:, None] + cheapest[id(p)], axis=0))
    after = [np.zeros(layers[-1].step_s.shape[2])]
    for p in reversed(layers):
        after.append(np.min(cheapest[id(p)] + after[-1][None, :], axis=1))
    after.reverse()
    return [before[None, :, None] + p.priced(per_byte_s) + beyond[None, None, :]
            for p, before, beyond in zip(layers, upto[:-1], after[1:], strict=True)]


def tightest(stage: Chain, limit_bytes: float, high: float, working_bytes: float) -> Dual:
    """The bound at its best price on walks that need at least that many working bytes. `high`: a price to begin with,
    in seconds a byte, raised until walks have room."""
    room = limit_bytes - working_bytes
    cost, large = best_walk(stage, 0.0)
    best = Dual(cost, 0.0, large if large.peak_bytes <= limit_bytes else None)
    if large.held_bytes <= room:
        return best
    small = large
    for _ in range(RAISES):
        cost, small = best_walk(stage, high)
        best = _learned(best, cost - high * room, high, small, limit_bytes)
        if small.held_bytes <= room or not np.isfinite(cost):
            break
        high *= 8
    if small.held_bytes > room:
        return best
    for _ in range(STEPS):
        if large.held_bytes <= small.held_bytes:
            break
        price = (small.step_s - large.step_s) / (large.held_bytes - small.held_bytes)
        cost, walk = best_walk(stage, price)
        best = _learned(best, cost - price * room, price, walk, limit_bytes)
        if cost >= (large.step_s + price * large.held_bytes) * (1 - 1e-12):
            break
        large, small = (walk, small) if walk.held_bytes > room else (large, walk)
    return best


def _learned(best: Dual, bound_s: float, price: float, walk: Walk, limit_bytes: float) -> Dual:
    faster = walk.peak_bytes <= limit_bytes and (best.walk is None or walk.step_s < best.walk.step_s)
    kept = walk if faster else best.walk
    return Dual(bound_s, price, kept) if bound_s > best.bound_s else Dual(best.bound_s, best.per_byte_s, kept)


def _cheapest(stage: Chain, per_byte_s: float) -> _Cheapest:
    shape = (stage.step_s.shape[0], *stage.step_s.shape[2:])
    found = _Cheapest(np.full(shape, np.inf), np.zeros(shape, dtype=np.int64))
    _fill_cheapest(stage.step_s, stage.held_bytes, per_byte_s, found.cost, found.row)
    return found


@compiled
def _fill_cheapest(step_s: Array, held_bytes: Array, per_byte_s: float, cost: Array, row: Ints) -> None:
    for kind in range(step_s.shape[0]):
        for g in range(step_s.shape[1]):
            for i in range(step_s.shape[2]):
                for o in range(step_s.shape[3]):
                    total = step_s[kind, g, i, o] + per_byte_s * held_bytes[kind, g, i, o]
                    if total < cost[kind, i, o]:
                        cost[kind, i, o], row[kind, i, o] = total, g


@compiled
def _walk(kinds: Ints, first: _Cheapest, later: _Cheapest, change: int) -> tuple[float, Ints, Ints]:
    layers, before, after = len(kinds), first.cost.shape[1], first.cost.shape[2]
    came = np.zeros((layers, after), dtype=np.int64)
    value = np.zeros(before)
    for n in range(layers):
        cost = first.cost[kinds[n]] if n < change else later.cost[kinds[n]]
        total = np.full(after, np.inf)
        for i in range(min(before, len(value))):
            for o in range(after):
                if value[i] + cost[i, o] < total[o]:
                    total[o] = value[i] + cost[i, o]
                    came[n, o] = i
        value = total
    states, rows = np.zeros(layers + 1, dtype=np.int64), np.zeros(layers, dtype=np.int64)
    states[layers] = value.argmin()
    for n in range(layers - 1, -1, -1):
        states[n] = came[n, states[n + 1]]
        row = first.row if n < change else later.row
        rows[n] = row[kinds[n], states[n], states[n + 1]]
    return value[states[layers]], rows, states


@compiled
def _added_up(stage: Chain, rows: Ints, states: Ints) -> tuple[float, float, float]:
    """Seconds of a step, held bytes and peak bytes of a walk."""
    step_s, held, working, sync = 0.0, 0.0, 0.0, 0.0
    for n in range(len(rows)):
        kind, g, i, o = stage.kinds[n], rows[n], states[n], states[n + 1]
        step_s += stage.step_s[kind, g, i, o]
        held += stage.held_bytes[kind, g, i, o]
        working = max(working, stage.working_bytes[kind, g, i, o])
        sync += stage.sync_bytes[kind, g, i, o]
    return step_s, held, max(held + working, sync)
