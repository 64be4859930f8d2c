"""Dual ascent and rounding as compiled loops.

The scheme is `dual_ascent`'s (SRMP, Kolmogorov 2015), in messages: edge e holds a vector of what it has given to each
end, `given[to_a[e]:]` and `given[to_b[e]:]`, and its table is never changed. With any messages,
sum_v min(own_v) + sum_e min(table_e - given to its ends), own_v being v's costs and rent and all it was given, is at
most the cost of any choice plus rent; so what `bound` returns is proven whatever the sweeps did.

On the way each node picks what is best given the picks before it and the messages from the nodes after it.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from planner.solvers.large.flat import FlatModel, Floats, Ints

ERROR = 1e-15
"""Relative error of one float operation, generously; float64 has 1.1e-16."""


class Messages:
    """What edges have given to their ends: [given] in one row, edge e's at to_a[e] and to_b[e]."""

    def __init__(self, model: FlatModel) -> None:
        sizes = model.sizes()
        both = np.stack([sizes[model.a], sizes[model.b]], axis=1).ravel()
        places = np.concatenate([[0], np.cumsum(both)]).astype(np.int64)
        self.to_a, self.to_b = places[:-1:2].copy(), places[1::2].copy()
        self.given = np.zeros(int(places[-1]))

    def copy(self) -> "Messages":
        """An independent copy of the vectors."""
        other = object.__new__(Messages)
        other.to_a, other.to_b, other.given = self.to_a, self.to_b, self.given.copy()
        return other


def sweep(model: FlatModel, messages: Messages, costs: Floats, noise: Floats, *, forward: bool) -> tuple[Ints, Ints, float]:
    """One sweep over all nodes: the picks, and the bound that the messages now give, before rounding is allowed for.

    Args:
      costs: with rent.
      noise: per choice, disturbs the picks only.
    """
    return _sweep(
        model.offset, costs, model.a, model.b, model.start, model.tables, model.near, model.around,
        messages.to_a, messages.to_b, messages.given, noise, forward,
    )  # fmt: skip


def bound(model: FlatModel, messages: Messages, costs: Floats) -> float:
    """A proven lower bound on cost + rent of every choice, rounding allowed for."""
    total, size = _bound(
        model.offset, costs, model.a, model.b, model.start, model.tables, model.near, model.around,
        messages.to_a, messages.to_b, messages.given,
    )  # fmt: skip
    return total - ERROR * size


def rent(model: FlatModel, prices: Floats) -> Floats:
    """What each choice pays for its memory, given a price per grid time."""
    before = np.concatenate([[0.0], np.cumsum(prices)])
    out = np.zeros(len(model.costs))
    _rent(model.offset, model.use, model.first, model.last, model.place, model.usages, before, out)
    return out


@numba.njit(cache=True, nogil=True)
def _rent(
    offset: Ints, use: Ints, first: Ints, last: Ints, place: Ints, usages: Ints, before: Floats, out: Floats
) -> None:
    for v in range(len(offset) - 1):
        for k in range(use[v], use[v + 1]):
            price = before[last[k]] - before[first[k]]
            if price > 0.0:
                for i in range(offset[v + 1] - offset[v]):
                    out[offset[v] + i] += price * usages[place[k] + i]


@numba.njit(cache=True, nogil=True, fastmath={"nnan", "nsz", "reassoc", "arcp", "contract"})
def _spare_rows(table: Floats, there: Floats, out: Floats) -> None:
    """out[i] = min over j of table[i, j] - there[j]."""
    for i in range(len(out)):
        least = np.inf
        row = table[i * len(there) : (i + 1) * len(there)]
        for j in range(len(there)):
            value = row[j] - there[j]
            least = value if value < least else least
        out[i] = least


@numba.njit(cache=True, nogil=True, fastmath={"nnan", "nsz", "reassoc", "arcp", "contract"})
def _spare_columns(table: Floats, there: Floats, out: Floats) -> None:
    """out[j] = min over i of table[i, j] - there[i]."""
    n = len(out)
    out[:] = np.inf
    for i in range(len(there)):
        row = table[i * n : (i + 1) * n]
        less = there[i]
        for j in range(n):
            value = row[j] - less
            out[j] = value if value < out[j] else out[j]


@numba.njit(cache=True, nogil=True)
def _sweep(
    offset: Ints, costs: Floats, a: Ints, b: Ints, start: Ints, tables: Floats, near: Ints, around: Ints,
    to_a: Ints, to_b: Ints, given: Floats, noise: Floats, forward: bool,
) -> tuple[Ints, Ints, float]:  # fmt: skip
    count = len(offset) - 1
    picks = np.zeros(count, dtype=np.int64)
    least_own = np.zeros(count, dtype=np.int64)
    total = 0.0  # of the nodes' minima; an edge's is 0 once its second end has taken what it can spare
    widest = 0
    for v in range(count):
        widest = max(widest, offset[v + 1] - offset[v])
    spare_row, own_row, look_row = np.empty(widest), np.empty(widest), np.empty(widest)
    for step in range(count):
        v = step if forward else count - 1 - step
        n = offset[v + 1] - offset[v]
        own, look, spare = own_row[:n], look_row[:n], spare_row[:n]
        for i in range(n):
            own[i] = costs[offset[v] + i]
            look[i] = costs[offset[v] + i] + noise[offset[v] + i]
        later = 0
        for k in range(near[v], near[v + 1]):
            e = around[k]
            is_a = a[e] == v
            u = b[e] if is_a else a[e]
            m = offset[u + 1] - offset[u]
            table = tables[start[e] : start[e] + n * m]
            mine = given[to_a[e] : to_a[e] + n] if is_a else given[to_b[e] : to_b[e] + n]
            if (u < v) == forward:
                theirs = given[to_b[e] : to_b[e] + m] if is_a else given[to_a[e] : to_a[e] + m]
                if is_a:
                    _spare_rows(table, theirs, spare)
                else:
                    _spare_columns(table, theirs, spare)
                pick = picks[u]
                for i in range(n):
                    mine[i] = spare[i]
                    look[i] += table[i * m + pick] if is_a else table[pick * n + i]
            else:
                later += 1
                for i in range(n):
                    look[i] += mine[i]
            for i in range(n):
                own[i] += mine[i]
        least, best = np.inf, 0
        for i in range(n):
            if look[i] < least:
                least, best = look[i], i
        picks[v] = best
        least_own[v] = own.argmin()
        shares = max(later, near[v + 1] - near[v] - later)
        total += own.min() * (1.0 - later / shares) if shares else own.min()
        if later:
            for k in range(near[v], near[v + 1]):
                e = around[k]
                is_a = a[e] == v
                u = b[e] if is_a else a[e]
                if (u < v) != forward:
                    mine = given[to_a[e] : to_a[e] + n] if is_a else given[to_b[e] : to_b[e] + n]
                    for i in range(n):
                        mine[i] -= own[i] / shares
    return picks, least_own, total


@numba.njit(cache=True, nogil=True)
def _bound(
    offset: Ints, costs: Floats, a: Ints, b: Ints, start: Ints, tables: Floats, near: Ints, around: Ints,
    to_a: Ints, to_b: Ints, given: Floats,
) -> tuple[float, float]:  # fmt: skip
    """The bound, and the sum of the magnitudes that went into it."""
    total = size = 0.0
    for v in range(len(offset) - 1):
        n = offset[v + 1] - offset[v]
        least, magnitude = np.inf, 0.0
        for i in range(n):
            own = costs[offset[v] + i]
            big = abs(own)
            for k in range(near[v], near[v + 1]):
                e = around[k]
                part = given[to_a[e] + i] if a[e] == v else given[to_b[e] + i]
                own += part
                big += abs(part)
            if own < least:
                least, magnitude = own, big
        total += least
        size += (2 + near[v + 1] - near[v]) * magnitude
    for e in range(len(a)):
        n, m = offset[a[e] + 1] - offset[a[e]], offset[b[e] + 1] - offset[b[e]]
        least = np.inf
        for i in range(n):
            row = tables[start[e] + i * m : start[e] + i * m + m]
            for j in range(m):
                value = row[j] - given[to_a[e] + i] - given[to_b[e] + j]
                if value < least:
                    least = value
        total += least
        size += 3 * abs(least)
    return total, size


def no_noise(model: FlatModel) -> NDArray[np.float64]:
    """Zeros: picks are undisturbed."""
    return np.zeros(len(model.costs))
