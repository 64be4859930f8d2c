"""Sums of cost tables and their minima over one variable, without forming the sums: compiled loops for elimination.

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
    """min over axis 1 of the sum of tables of axes [batch, variable, others...], each of full length or 1; [batch,
    others...]. Fastest where the last axis is long: loops run along it."""
    shape: tuple[int, ...] = np.broadcast_shapes(*(v.shape for v in views))
    batch, domain, rest = shape[0], shape[1], shape[2:] or (1,)
    full = sorted((v if v.ndim > 2 else v[..., None] for v in views), key=lambda v: v.size)
    steps = np.array([[_step(v, 0), _step(v, 1), int(v.shape[-1] > 1)] for v in full])
    places = np.stack([np.broadcast_to(_places(v.shape[2:-1], v.shape[-1]), rest[:-1]).ravel() for v in full])
    best = np.full((batch, places.shape[1], rest[-1]), np.inf)
    *few, most = (v.ravel() for v in full)  # the largest is not copied
    start = np.cumsum([0, *(v.size for v in few)])
    _minimum(np.concatenate([*few, np.zeros(1)]), most, np.append(start[:-1], 0), np.column_stack([steps, places]),
             domain, best)
    return best.reshape(batch, *shape[2:])


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


def _step(view: Floats, axis: int) -> int:
    """From one entry along an axis to the next, in a table without gaps; 0 where it is the same for all."""
    return int(np.prod(view.shape[axis + 1:], dtype=np.int64)) if view.shape[axis] > 1 else 0


def _places(shape: tuple[int, ...], inner: int) -> Ints:
    """Where the entries of each combination of the others but the last begin, for one choice of the variable."""
    return (np.arange(int(np.prod(shape, dtype=np.int64))) * inner).reshape(shape)


@compiled
def _minimum(few: Floats, most: Floats, start: Ints, steps: Ints, domain: int, best: Floats) -> None:
    """`few`: all tables but the last. `steps`: per table, along the batch, the variable and the last axis, then where
    it is at each combination of the axes between."""
    total = np.empty(best.shape[2])
    for g in range(best.shape[0]):
        for x in range(domain):
            for r in range(best.shape[1]):
                for v in range(len(start)):
                    at = start[v] + g * steps[v, 0] + x * steps[v, 1] + steps[v, 3 + r]
                    _add(few if v + 1 < len(start) else most, at, steps[v, 2], v == 0, total)
                _lower(best[g, r], total)


@compiled
def _add(data: Floats, at: int, step: int, first: bool, total: Floats) -> None:  # noqa: FBT001  numba takes no keywords
    if step == 0:
        value = data[at]
        for i in range(len(total)):
            total[i] = value if first else total[i] + value
    elif first:
        for i in range(len(total)):
            total[i] = data[at + i]
    else:
        for i in range(len(total)):
            total[i] += data[at + i]


@compiled_minimum
def _lower(best: Floats, total: Floats) -> None:
    for i in range(len(total)):
        value = total[i]
        best[i] = value if value < best[i] else best[i]


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
