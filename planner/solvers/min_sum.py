"""Sums of cost tables and their minima over one variable, without forming the sums: compiled loops for elimination.

A table has axes [batch, variable, others...], each of full length or 1. It is laid out with the variable last, so that
the loop over it runs along memory; where the others point to is worked out once per table.

In: tables. Out: minima, or which choice of the variable is least.
"""

# In compiled loops an element of an array is a plain number, which its static type doesn't say.
# pyright: reportReturnType=false, reportArgumentType=false, reportAssignmentType=false

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from planner.solvers.large.compiled import compiled, compiled_minimum

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def minimum(views: Sequence[Floats]) -> Floats:
    """min over axis 1 of the sum of tables that broadcast, [batch, others...]."""
    shape: tuple[int, ...] = np.broadcast_shapes(*(v.shape for v in views))
    batch, domain, rest = shape[0], shape[1], shape[2:]
    data, start, steps = _laid_out(views)
    places = np.stack([np.broadcast_to(_places(v.shape[2:], domain), rest).ravel() for v in views])
    best = np.empty((batch, places.shape[1]))
    _minimum(data, start, steps, places, best, np.empty(domain))
    return best.reshape(batch, *rest)


def least(tables: Sequence[Floats], places: Ints) -> Ints:
    """Per row, the first choice of the variable at which the sum of tables is least.

    Args:
      tables: each of any axes, the variable's last.
      places: [table, row]: where a row's entries begin in the table, as a flat index.
    """
    data = np.concatenate([t.ravel() for t in tables])
    start = np.cumsum([0, *(t.size for t in tables[:-1])])
    found, domain = np.empty(places.shape[1], dtype=np.int64), int(tables[0].shape[-1])
    _least(data, places + start[:, None], found, np.empty(domain))
    return found


def _laid_out(views: Sequence[Floats]) -> tuple[Floats, Ints, Ints]:
    """All tables one after another, the variable last; where each begins, and its step from one batch to the next."""
    turned = [np.moveaxis(v, 1, -1).ravel() for v in views]
    start = np.cumsum([0, *(t.size for t in turned[:-1])])
    steps = np.array([t.size // len(v) if len(v) > 1 else 0 for t, v in zip(turned, views, strict=True)])
    return np.concatenate(turned), start, steps


def _places(shape: tuple[int, ...], domain: int) -> Ints:
    """Where the entries of each combination of the others begin, within one batch."""
    return (np.arange(int(np.prod(shape, dtype=np.int64))) * domain).reshape(shape)


@compiled
def _minimum(data: Floats, start: Ints, steps: Ints, places: Ints, best: Floats, total: Floats) -> None:
    for g in range(best.shape[0]):
        for r in range(best.shape[1]):
            _sum(data, start, steps, places, g, r, total)
            best[g, r] = _lowest(total)


@compiled
def _sum(data: Floats, start: Ints, steps: Ints, places: Ints, g: int, r: int, total: Floats) -> None:
    for v in range(len(start)):
        at = start[v] + g * steps[v] + places[v, r]
        if v == 0:
            for x in range(len(total)):
                total[x] = data[at + x]
        else:
            for x in range(len(total)):
                total[x] += data[at + x]


@compiled_minimum
def _lowest(total: Floats) -> float:
    least = np.inf
    for value in total:
        least = min(value, least)
    return least


@compiled
def _least(data: Floats, places: Ints, found: Ints, total: Floats) -> None:
    for r in range(len(found)):
        for t in range(len(places)):
            at = places[t, r]
            if t == 0:
                for x in range(len(total)):
                    total[x] = data[at + x]
            else:
                for x in range(len(total)):
                    total[x] += data[at + x]
        best = 0
        for x in range(1, len(total)):
            if total[x] < total[best]:
                best = x
        found[r] = best
