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
    others...]. Fastest where the last axis is long: loops run along it. Two tables of which one alone has that axis are
    a min-plus product, which most sums are, and the fastest of all."""
    shape: tuple[int, ...] = np.broadcast_shapes(*(v.shape for v in views))
    batch, domain, rest = shape[0], shape[1], shape[2:] or (1,)
    full = sorted((v if v.ndim > 2 else v[..., None] for v in views), key=lambda v: v.size)
    steps = np.array([[_step(v, 0), _step(v, 1), int(v.shape[-1] > 1)] for v in full])
    places = np.stack([np.broadcast_to(_places(v.shape[2:-1], v.shape[-1]), rest[:-1]).ravel() for v in full])
    best = np.full((batch, places.shape[1], rest[-1]), np.inf)
    *few, most = (v.ravel() for v in full)  # the largest is not copied
    if len(few) == 1 and steps[:, 2].sum() == 1:
        one, other = (0, 1) if steps[1, 2] else (1, 0)
        both = (few[0], most)
        _product(both[one], steps[one], places[one], both[other], steps[other], places[other], domain, best)
        return best.reshape(batch, *shape[2:])
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


@compiled_minimum
def _product(  # noqa: PLR0913  (a compiled loop)
             one: Floats, one_steps: Ints, one_places: Ints, other: Floats, other_steps: Ints, other_places: Ints,
             domain: int, best: Floats) -> None:
    """Sums of a table that is the same along the last axis with another, which is read four choices at a time."""
    width, step, along = best.shape[2], one_steps[1], other_steps[1]
    for g in range(best.shape[0]):
        for r in range(best.shape[1]):
            lowest = best[g, r]
            a, b = g * one_steps[0] + one_places[r], g * other_steps[0] + other_places[r]
            for _ in range(domain // 4):
                one0, one1, one2, one3 = one[a], one[a + step], one[a + 2 * step], one[a + 3 * step]
                other0, other1 = other[b:b + width], other[b + along:b + along + width]
                other2, other3 = other[b + 2 * along:b + 2 * along + width], other[b + 3 * along:b + 3 * along + width]
                for i in range(width):
                    x, y, z, w = one0 + other0[i], one1 + other1[i], one2 + other2[i], one3 + other3[i]
                    x, z = x if x < y else y, z if z < w else w
                    x = x if x < z else z
                    lowest[i] = x if x < lowest[i] else lowest[i]
                a, b = a + 4 * step, b + 4 * along
            for _ in range(domain % 4):
                one0, other0 = one[a], other[b:b + width]
                for i in range(width):
                    x = one0 + other0[i]
                    lowest[i] = x if x < lowest[i] else lowest[i]
                a, b = a + step, b + along


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
