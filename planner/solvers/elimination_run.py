"""The compiled loops that take the steps of an `EliminationCode`, and read choices back.

In: rows of numbers, the steps. Out: the rows with every table filled in; choices.
"""

# In compiled loops an element of an array is a plain number, which its static type doesn't say.
# pyright: reportReturnType=false, reportArgumentType=false, reportAssignmentType=false

import numpy as np
from numpy.typing import NDArray

from planner.solvers.elimination_code import ADD, EliminationCode
from planner.solvers.large.compiled import compiled, compiled_minimum

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def rows_for(code: EliminationCode, batch: int) -> Floats:
    """Rows to write factors into."""
    rows = np.empty((batch, code.length))
    rows[:, code.zero] = 0.0
    return rows


def run(code: EliminationCode, rows: Floats) -> Floats:
    """Take all steps; the result, [batch, kept variables...]."""
    _run(code.steps, rows, np.zeros(len(code.domains) + 1, dtype=np.int64))
    shape = tuple(code.domains[v] for v in code.keep)
    size = int(np.prod(shape, dtype=np.int64))
    return rows[:, code.result:code.result + size].copy().reshape(len(rows), *shape)


def read_back(code: EliminationCode, rows: Floats, batch: Ints, choice: Ints) -> None:
    """Choose every variable that went, [choice, variable], given those that are kept; `batch`: the row of each choice.
    """
    _read_back(code.back, rows, batch, choice, np.empty(max(code.domains, default=0)))


@compiled
def _run(steps: Ints, rows: Floats, counter: Ints) -> None:
    """One row after another: what a step leaves is near for the next."""
    for g in range(len(rows)):
        row, at = rows[g], 0
        while at < len(steps):
            dims = steps[at + 2]
            if steps[at] == ADD:
                _add(row, steps[at + 1], steps[at + 3], steps[at + 4], steps[at + 5:at + 5 + 3 * dims], dims, counter)
                at += 5 + 3 * dims
            else:
                tables, begin = steps[at + 3], at + 5 + dims
                size = tables * (2 + dims)
                _minimise(row, steps[at + 1], steps[at + 4], steps[at + 5:begin],
                          steps[begin:begin + size].reshape(tables, 2 + dims), counter)
                at = begin + size


@compiled
def _add(row: Floats, to: int, one: int, other: int, layout: Ints, dims: int, counter: Ints) -> None:
    """`layout`: sizes, strides of one table, strides of the other."""
    if dims == 0:
        row[to] = row[one] + row[other]
        return
    width, along, across = layout[dims - 1], layout[2 * dims - 1], layout[3 * dims - 1]
    counter[:dims] = 0
    while True:
        for i in range(width):
            row[to + i] = row[one + i * along] + row[other + i * across]
        to += width
        n = dims - 2
        while n >= 0:
            counter[n] += 1
            one, other = one + layout[dims + n], other + layout[2 * dims + n]
            if counter[n] < layout[n]:
                break
            one, other = one - counter[n] * layout[dims + n], other - counter[n] * layout[2 * dims + n]
            counter[n] = 0
            n -= 1
        if n < 0:
            return


@compiled
def _minimise(row: Floats, to: int, domain: int, sizes: Ints, tables: Ints, counter: Ints) -> None:
    """`tables`: where each begins, the stride of the variable, those of the message's dimensions."""
    dims, count = len(sizes), len(tables)
    width = sizes[dims - 1] if dims else 1
    starts = tables[:, 0].copy()
    product = count == 2 and dims > 0 and tables[0, 1 + dims] + tables[1, 1 + dims] == 1
    total = np.empty(0 if product else width)
    one = 1 if product and tables[0, 1 + dims] else 0
    counter[:dims] = 0
    while True:
        lowest = row[to:to + width]
        lowest[:] = np.inf
        if product:
            _product(row, starts[one], tables[one, 1], starts[1 - one], tables[1 - one, 1], domain, lowest)
        else:
            for x in range(domain):
                for t in range(count):
                    _sum(row, starts[t] + x * tables[t, 1], tables[t, 1 + dims] if dims else 0, t == 0, total)
                _lower(lowest, total)
        to += width
        n = dims - 2
        while n >= 0:
            counter[n] += 1
            for t in range(count):
                starts[t] += tables[t, 2 + n]
            if counter[n] < sizes[n]:
                break
            for t in range(count):
                starts[t] -= counter[n] * tables[t, 2 + n]
            counter[n] = 0
            n -= 1
        if n < 0:
            return


@compiled_minimum
def _product(row: Floats, a: int, step: int, b: int, along: int, domain: int, lowest: Floats) -> None:
    """A table that is the same along the last axis with another, which is read four choices at a time."""
    width = len(lowest)
    for _ in range(domain // 4):
        one0, one1, one2, one3 = row[a], row[a + step], row[a + 2 * step], row[a + 3 * step]
        other0, other1 = row[b:b + width], row[b + along:b + along + width]
        other2, other3 = row[b + 2 * along:b + 2 * along + width], row[b + 3 * along:b + 3 * along + width]
        for i in range(width):
            x, y, z, w = one0 + other0[i], one1 + other1[i], one2 + other2[i], one3 + other3[i]
            x, z = x if x < y else y, z if z < w else w
            x = x if x < z else z
            lowest[i] = x if x < lowest[i] else lowest[i]
        a, b = a + 4 * step, b + 4 * along
    for _ in range(domain % 4):
        one0, other0 = row[a], row[b:b + width]
        for i in range(width):
            x = one0 + other0[i]
            lowest[i] = x if x < lowest[i] else lowest[i]
        a, b = a + step, b + along


@compiled
def _sum(row: Floats, at: int, step: int, first: bool, total: Floats) -> None:  # noqa: FBT001  numba takes no keywords
    for i in range(len(total)):
        value = row[at + i * step]
        total[i] = value if first else total[i] + value


@compiled_minimum
def _lower(lowest: Floats, total: Floats) -> None:
    for i in range(len(total)):
        value = total[i]
        lowest[i] = value if value < lowest[i] else lowest[i]


@compiled
def _read_back(back: Ints, rows: Floats, batch: Ints, choice: Ints, total: Floats) -> None:
    for r in range(len(batch)):
        row, mine, at = rows[batch[r]], choice[r], 0
        while at < len(back):
            v, domain, tables = back[at], back[at + 1], back[at + 2]
            at += 3
            for t in range(tables):
                start, step, others = back[at], back[at + 1], back[at + 2]
                at += 3
                for _ in range(others):
                    start += back[at + 1] * mine[back[at]]
                    at += 2
                for x in range(domain):
                    total[x] = row[start + x * step] if t == 0 else total[x] + row[start + x * step]
            best = 0
            for x in range(1, domain):
                if total[x] < total[best]:
                    best = x
            mine[v] = best
