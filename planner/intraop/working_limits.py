"""The fastest walk through a stage, by branching on how much working memory its layers may need at most.

At a fixed bound u on working bytes, points that need more are out and what the layers hold together has the limit less
u; without working bytes a stage is the chain of `chain.py`, whose bound and walks are good. For walks whose largest
working bytes lie in (a, b], points above b are out and the room is the limit less a. Such ranges are halved, the one
with the least bound first, until the best walk is as good as any range's bound or the ranges tried are as many as
allowed.

In: `Points` per layer, the limit, a walk to beat. Out: a `Ranges`: the best walk, the ranges that might hold a better
one.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from planner.intraop.chain import Dual, Walk, chain, limited, mixed_walk, tightest
from planner.intraop.points import Array, Points

RANGES = 24
"""Ranges tried at most. [chosen]"""

SPREADS = (1e-6, 0.2)
"""Relative distances from the bounding price of the two prices that walks are mixed of. [chosen]"""


@dataclass(frozen=True)
class Range:
    """Walks whose largest working bytes are at least `least_bytes`, through points that need at most `most_bytes`."""

    least_bytes: float
    most_bytes: float
    dual: Dual


@dataclass(frozen=True)
class Ranges:
    """The best walk known (None if none fits), and ranges whose bound is below it, in order of their bounds."""

    walk: Walk | None
    left: tuple[Range, ...]

    def bound_s(self) -> float:
        """No walk is faster."""
        known = np.inf if self.walk is None else self.walk.step_s
        return min([known, *(r.dual.bound_s for r in self.left)])


def within(layers: Sequence[Points], most_bytes: float) -> list[Points]:
    """The points whose working bytes are at most that; equal layers stay the same object."""
    found: dict[int, Points] = {}
    for p in layers:
        if id(p) not in found:
            found[id(p)] = replace(p, step_s=np.where(p.working_bytes <= most_bytes, p.step_s, np.inf))
    return [found[id(p)] for p in layers]


def search_ranges(layers: Sequence[Points], limit_bytes: float, start: Walk | None, price: float, *,
                  tolerance: float) -> Ranges:
    """Branch. `price`: seconds a byte to start from; ranges within `tolerance` (relative) of the best walk are done."""
    stage, levels = chain(layers), _levels(layers)
    levels = levels[levels <= limit_bytes]
    best = start
    queue: list[tuple[float, int, int, Range]] = []
    tried = 0

    def look(first: int, last: int) -> None:
        nonlocal best, tried
        tried += 1
        some = limited(stage, float(levels[last]))
        dual = tightest(some, limit_bytes, price, float(levels[first]))
        found = [dual.walk]
        if dual.per_byte_s and np.isfinite(dual.bound_s):
            found += [mixed_walk(some, (dual.per_byte_s * (1 - d), dual.per_byte_s * (1 + d)), limit_bytes)
                      for d in SPREADS]
        for walk in found:
            if walk is not None and (best is None or walk.step_s < best.step_s):
                best = walk
        heapq.heappush(queue, (dual.bound_s, first, last, Range(float(levels[first]), float(levels[last]), dual)))

    def is_open(bound_s: float) -> bool:
        return np.isfinite(bound_s) and (best is None or bound_s < best.step_s * (1 - tolerance))

    done: list[Range] = []
    if levels.size:
        look(0, len(levels) - 1)
    while queue and tried < RANGES and is_open(queue[0][0]):
        _, first, last, this = heapq.heappop(queue)
        if first == last:
            done.append(this)
            continue
        middle = (first + last) // 2
        look(first, middle)
        look(middle + 1, last)
    left = sorted([*done, *(q[3] for q in queue)], key=lambda r: (r.dual.bound_s, r.least_bytes))
    return Ranges(best, tuple(r for r in left if is_open(r.dual.bound_s)))


def _levels(layers: Sequence[Points]) -> Array:
    """The working bytes that can be a walk's largest, in ascending order."""
    distinct = {id(p): p.working_bytes[np.isfinite(p.step_s)] for p in layers}
    values = np.unique(np.concatenate(list(distinct.values())))
    return values[values >= max(float(w.min()) for w in distinct.values())]
