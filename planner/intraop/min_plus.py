"""Slices that get longer by a layer: min-plus products over the boundary states between, as compiled loops.

In: the best way to each state after some slices, the frontier of a layer. Out: the same after the longer slices.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.solvers.large.compiled import compiled

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
States = NDArray[np.int16]


class Rows(NamedTuple):
    """A layer's frontier as slices use it: `priced` [row, state before, state after], and the frontier's own row that
    this is, `own` (a row of the cheapest way is another one between other states)."""

    priced: Array
    own: Ints


class Longer(NamedTuple):
    """Slices with a layer put behind them: the slices without it, `which` of those of their length (and `shorter` of
    all, -1 where there is none), those with it, `place` of those of their length and `numbers` of all, [n] each; `row`,
    [variant]: the layer's row that each variant uses."""

    which: Ints
    shorter: Ints
    place: Ints
    numbers: Ints
    row: Ints


class Sums(NamedTuple):
    """What the best way to each state after some slices adds up to: parts [slice, variant, state, part], working bytes
    [slice, variant, state]."""

    parts: Array
    work: Array


@compiled
def lengthen(before: Array, longer: Longer, priced: Array, after: Array, came: States) -> None:
    """The best way to each state after longer slices.

    Args:
      before: the least objective, [slice, variant, state] (infinite where there is no such state).
      longer: which slices of `before` get a layer.
      priced: of the layer, as in `Rows`.
      after: as `before`; of its slices those that are longer are set.
      came: the state before the layer on the best way to each state after it, [slice, variant, state]; likewise.
    """
    for n in range(len(longer.which)):
        for g in range(len(longer.row)):
            r = longer.row[g]
            best, pick = after[longer.place[n], g], came[longer.numbers[n], g]
            for i in range(priced.shape[1]):
                so_far = before[longer.which[n], g, i]
                for o in range(priced.shape[2]):
                    total = so_far + priced[r, i, o]
                    if total < best[o]:
                        best[o] = total
                        pick[o] = i


@compiled
def best_end(after: Array, first: int, end: Ints, possible: NDArray[np.bool_], bounding: Ints, bounds: Array) -> None:
    """Of slices that are numbered from `first` on, and the least objective by the state after them, [slice, variant,
    state], fill in per number and variant: the best state, and whether there is any; of the variants that are
    `bounding` the objective there, [number, ...]."""
    for n in range(after.shape[0]):
        for g in range(after.shape[1]):
            best = 0
            for o in range(1, after.shape[2]):
                if after[n, g, o] < after[n, g, best]:
                    best = o
            end[first + n, g], possible[first + n, g] = best, after[n, g, best] < np.inf
        for at in range(len(bounding)):
            bounds[first + n, at] = after[n, bounding[at], end[first + n, bounding[at]]]


@compiled
def way_through(priced: Array, kinds: Ints, begin: Array) -> Ints:
    """The states on the best way through layers, [layer + 1], each of one of the kinds, whose costs are [kind, state
    before, state after]; `begin`: what it costs to begin in a state. Ties as `lengthen` and `best_end` break them."""
    came = np.zeros((len(kinds), len(begin)), dtype=np.int64)
    before = begin.copy()
    for n in range(len(kinds)):
        own, after = priced[kinds[n]], np.full(len(begin), np.inf)
        for i in range(len(begin)):
            for o in range(len(begin)):
                total = before[i] + own[i, o]
                if total < after[o]:
                    after[o] = total
                    came[n, o] = i
        before = after
    found = np.zeros(len(kinds) + 1, dtype=np.int64)
    for o in range(1, len(before)):
        if before[o] < before[found[len(kinds)]]:
            found[len(kinds)] = o
    for n in range(len(kinds) - 1, -1, -1):
        found[n] = came[n, found[n + 1]]
    return found


@compiled
def mark(longer: Longer, own: Ints, came: States, reached: NDArray[np.bool_], used: NDArray[np.bool_]) -> None:
    """From states after slices that are `reached`, [slice, variant, state], to those before their last layer, and the
    points of its frontier that are `used`, [row, state before, state after]; `own` as in `Rows`."""
    for n in range(len(longer.which)):
        a = longer.numbers[n]
        for g in range(len(longer.row)):
            for o in range(own.shape[2]):
                if reached[a, g, o]:
                    i = came[a, g, o]
                    used[own[longer.row[g], i, o], i, o] = True
                    if longer.shorter[n] >= 0:
                        reached[longer.shorter[n], g, i] = True


@compiled
def add_up(before: Sums, longer: Longer, own: Ints, costs: Sums, came: States, reached: NDArray[np.bool_], after: Sums
           ) -> None:
    """What the ways to reached states cost with the layer, whose frontier says `costs` [row, state before, state
    after]; the rest as in `mark`."""
    for n in range(len(longer.which)):
        a, b, at = longer.which[n], longer.place[n], longer.numbers[n]
        for g in range(len(longer.row)):
            for o in range(own.shape[2]):
                if reached[at, g, o]:
                    i = came[at, g, o]
                    r = own[longer.row[g], i, o]
                    for p in range(before.parts.shape[3]):
                        after.parts[b, g, o, p] = before.parts[a, g, i, p] + costs.parts[r, i, o, p]
                    after.work[b, g, o] = max(before.work[a, g, i], costs.work[r, i, o])
