"""A stage as a chain of layers at one price of memory: its best walk, and the price at which that bounds it best.

Layers touch only through boundary states, so min-plus products find the best walk of points exactly. With held bytes at
a price λ, walk cost - λ · room bounds every walk that fits from below; the bound is concave in λ and piecewise linear,
and cutting the lines of two walks, one that is too large and one that is not, finds its maximum in a few steps (the
secant form of Dantzig and Wolfe's column generation). Walking forward and backward also tells, for every point, the
cost of the best walk through it, which removes most points before anything else looks at them.

In: `Points` per layer. Out: `Walk`s, `Dual`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.intraop.points import Array, Points

STEPS = 60
"""Secant steps at most; 5 to 15 are usual. [chosen]"""


_Cheapest = dict[int, tuple[Array, NDArray[np.int64]]]
"""Per distinct layer (by identity), its cheapest row between two states: the cost and which."""


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


def priced_walk(layers: Sequence[Points], rows: Sequence[int], states: Sequence[int]) -> Walk:
    """Add up a walk."""
    at = [(p, (g, i, o)) for p, g, i, o in zip(layers, rows, states[:-1], states[1:], strict=True)]
    held = sum(float(p.held_bytes[x]) for p, x in at)
    peak = max(held + max(float(p.working_bytes[x]) for p, x in at), sum(float(p.sync_bytes[x]) for p, x in at))
    return Walk(tuple(rows), tuple(states), sum(float(p.step_s[x]) for p, x in at), held, peak)


def best_walk(layers: Sequence[Points], per_byte_s: float) -> tuple[float, Walk]:
    """The least cost at a price of held bytes, and a walk of that cost."""
    return _best_walk(layers, [_cheapest(layers, per_byte_s)] * len(layers))


def mixed_walk(layers: Sequence[Points], prices: tuple[float, float], limit_bytes: float) -> Walk | None:
    """A fast walk that fits, its first layers at the lower price and the rest at the higher, or the other way round.

    Where the price changes is found by bisection, as if less at the lower price always held less.
    """
    low, high = (_cheapest(layers, price) for price in prices)
    best: Walk | None = None
    for low_first in (True, False):
        fitting, beyond = 0, len(layers) + 1
        while fitting + 1 < beyond:
            n = (fitting + beyond) // 2
            rest = len(layers) - n
            _, walk = _best_walk(layers, [low] * n + [high] * rest if low_first else [high] * rest + [low] * n)
            if walk.peak_bytes > limit_bytes:
                beyond = n
                continue
            fitting = n
            if best is None or walk.step_s < best.step_s:
                best = walk
    return best


def _best_walk(layers: Sequence[Points], tables: Sequence[_Cheapest]) -> tuple[float, Walk]:
    value = np.zeros(layers[0].step_s.shape[1])
    came: list[NDArray[np.int64]] = []
    for p, table in zip(layers, tables, strict=True):
        total = value[:, None] + table[id(p)][0]
        came.append(total.argmin(axis=0))
        value = total.min(axis=0)
    states = [int(value.argmin())]
    for back in reversed(came):
        states.append(int(back[states[-1]]))
    states.reverse()
    rows = [int(table[id(p)][1][i, o])
            for p, table, i, o in zip(layers, tables, states[:-1], states[1:], strict=True)]
    return float(value.min()), priced_walk(layers, rows, states)


def walks_through(layers: Sequence[Points], per_byte_s: float) -> list[Array]:
    """Per layer, [row, state before, state after]: the least cost of a walk through that point, at that price."""
    tables = _cheapest(layers, per_byte_s)
    upto = [np.zeros(layers[0].step_s.shape[1])]
    for p in layers:
        upto.append(np.min(upto[-1][:, None] + tables[id(p)][0], axis=0))
    after = [np.zeros(layers[-1].step_s.shape[2])]
    for p in reversed(layers):
        after.append(np.min(tables[id(p)][0] + after[-1][None, :], axis=1))
    after.reverse()
    return [before[None, :, None] + p.priced(per_byte_s) + beyond[None, None, :]
            for p, before, beyond in zip(layers, upto[:-1], after[1:], strict=True)]


def tightest(layers: Sequence[Points], limit_bytes: float, high: float, working_bytes: float) -> Dual:
    """The bound at its best price on walks that need at least that many working bytes. `high`: a price to begin with,
    in seconds a byte, raised until walks have room."""
    room = limit_bytes - working_bytes
    cost, large = best_walk(layers, 0.0)
    best = Dual(cost, 0.0, large if large.peak_bytes <= limit_bytes else None)
    if large.held_bytes <= room:
        return best
    small = large
    for _ in range(RAISES):
        cost, small = best_walk(layers, high)
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
        cost, walk = best_walk(layers, price)
        best = _learned(best, cost - price * room, price, walk, limit_bytes)
        if cost >= (large.step_s + price * large.held_bytes) * (1 - 1e-12):
            break
        large, small = (walk, small) if walk.held_bytes > room else (large, walk)
    return best


def _learned(best: Dual, bound_s: float, price: float, walk: Walk, limit_bytes: float) -> Dual:
    faster = walk.peak_bytes <= limit_bytes and (best.walk is None or walk.step_s < best.walk.step_s)
    kept = walk if faster else best.walk
    return Dual(bound_s, price, kept) if bound_s > best.bound_s else Dual(best.bound_s, best.per_byte_s, kept)


def _cheapest(layers: Sequence[Points], per_byte_s: float) -> _Cheapest:
    found: _Cheapest = {}
    for p in layers:
        if id(p) not in found:
            priced = p.priced(per_byte_s)
            found[id(p)] = priced.min(axis=0), priced.argmin(axis=0)
    return found
