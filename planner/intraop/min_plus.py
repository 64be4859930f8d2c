"""Slices that get longer by a layer: min-plus products over the boundary states between, as compiled loops.

In: the best way to each state after some slices, the frontier of a layer. Out: the same after the longer slices.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.solvers.large.compiled import compiled

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


class Rows(NamedTuple):
    """A layer's frontier: `priced` [row, state before, state after], `parts` [..., part], `working_bytes`."""

    priced: Array
    parts: Array
    working_bytes: Array


class Ways(NamedTuple):
    """The best way to each state after some slices: its objective, [slice, variant, state] (infinite where there is no
    such state), parts [..., part], working bytes."""

    value: Array
    sums: Array
    work: Array


def no_ways(count: int, width: int, states: int, parts: int) -> Ways:
    """Of so many slices, variants, states and parts, none reached."""
    shape = (count, width, states)
    return Ways(np.full(shape, np.inf), np.zeros((*shape, parts)), np.zeros(shape))


def lengthen(before: Ways, which: Ints, layer: Rows, row: Ints, after: Ways, place: Ints) -> NDArray[np.int16]:
    """Put a layer behind some slices.

    Args:
      which: [n], the slices of `before`.
      row: [variant], the layer's row that each variant uses.
      after: [n] of its slices, `place`, are set.

    Returns:
      The state before the layer on the best way to each state after it, [n, variant, state].
    """
    came = np.zeros((len(which), len(row), layer.priced.shape[2]), dtype=np.int16)
    _lengthen(before, which, layer, row, after, place, came)
    return came


@compiled
def _lengthen(before: Ways, which: Ints, layer: Rows, row: Ints, after: Ways, place: Ints, came: NDArray[np.int16]
              ) -> None:
    """`lengthen` into `came`."""
    for n in range(len(which)):
        a, b = which[n], place[n]
        for g in range(len(row)):
            r = row[g]
            best, pick = after.value[b, g], came[n, g]
            for i in range(layer.priced.shape[1]):
                so_far = before.value[a, g, i]
                for o in range(layer.priced.shape[2]):
                    total = so_far + layer.priced[r, i, o]
                    if total < best[o]:
                        best[o] = total
                        pick[o] = i
            for o in range(layer.priced.shape[2]):
                i = pick[o]
                for p in range(layer.parts.shape[3]):
                    after.sums[b, g, o, p] = before.sums[a, g, i, p] + layer.parts[r, i, o, p]
                after.work[b, g, o] = max(before.work[a, g, i], layer.working_bytes[r, i, o])
