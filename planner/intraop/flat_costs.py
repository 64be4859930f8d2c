"""The costs of a priced layer in one array, for compiled loops: what a sum over hundreds of small tables would take in
calls is more than the sums themselves.

Tables that are zero throughout are left out: of the kinds of cost, a choice has two or three. In: tables per variable
and per pair of variables, by kind. Out: `FlatCosts`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from planner.errors import ProblemError
from planner.intraop.setting import AGAIN, HIDDEN, Array, Costs
from planner.solvers.large.compiled import compiled

KINDS = ("forward_s", "backward_s", "batch_s", "resident_bytes", "saved_bytes", "sync_bytes", *AGAIN, *HIDDEN)

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class FlatCosts:
    """Factors are variables, then pairs.

    Attributes:
      domains: choices per variable.
      scopes: per factor, the variables.
      values: tables that are not zero, one after another.
      tables: of each of them, its place in `KINDS`, and where it begins.
      sizes: per factor, how many choices or pairs of them it has.
      starts: per factor, the first of its tables (one more: the end).
      places: per factor, its first variable, its second (-1: it has none), the choices of that.
    """

    domains: tuple[int, ...]
    scopes: tuple[tuple[int, ...], ...]
    values: Array
    tables: Ints
    sizes: Ints
    starts: Ints
    places: Ints

    def weighted(self, weights: Mapping[str, Array], rows: Array) -> None:
        """Write the sums of all kinds, weighted, [variant] each, to the beginning of rows, [variant, ...]: factors one
        after another."""
        each = np.stack([weights[kind] for kind in KINDS], axis=1)
        _weighted(self.values, self.tables, self.starts, self.sizes, each, rows)

    def added_up(self, choices: Ints, kinds: Sequence[str]) -> Array:
        """What choices per variable, [choice, variable], cost of each kind, [choice, kind]."""
        column = np.array([kinds.index(kind) if kind in kinds else -1 for kind in KINDS])
        found = np.zeros((len(choices), len(kinds)))
        _added_up(self.values, self.tables, self.starts, self.places, column, np.ascontiguousarray(choices), found)
        return found


def flat_costs(domains: Sequence[int], unary: Sequence[Costs], edges: Mapping[tuple[int, int], Costs]) -> FlatCosts:
    """Lay out the costs of variables with so many choices.

    Raises:
      ProblemError: a cost is NaN.
    """
    scopes = (*((v,) for v in range(len(unary))), *edges)
    values: list[Array] = []
    tables: list[tuple[int, int]] = []
    starts, at = [0], 0
    for costs in (*unary, *edges.values()):
        for n, kind in enumerate(KINDS):
            table = costs.get(kind)
            if table is not None and table.any():
                values.append(table.ravel())
                tables.append((n, at))
                at += table.size
        starts.append(len(tables))
    places = [(scope[0], scope[1], domains[scope[1]]) if len(scope) > 1 else (scope[0], -1, 1) for scope in scopes]
    sizes = [prod(domains[v] for v in scope) for scope in scopes]
    found = np.concatenate([*values, np.zeros(1)])
    if np.isnan(found).any():
        raise ProblemError("a cost of a layer is NaN", "this is a fault of what priced it")
    return FlatCosts(tuple(domains), scopes, found, np.array(tables, dtype=np.int64).reshape(-1, 2), np.array(sizes),
                     np.array(starts), np.array(places))


@compiled
def _weighted(values: Array, tables: Ints, starts: Ints, sizes: Ints, weights: Array, rows: Array) -> None:
    for g in range(len(rows)):
        to = 0
        for f in range(len(sizes)):
            row = rows[g, to:to + sizes[f]]
            to += sizes[f]
            row[:] = 0.0
            for t in range(starts[f], starts[f + 1]):
                weight, own = weights[g, tables[t, 0]], values[tables[t, 1]:tables[t, 1] + sizes[f]]
                if weight != 0.0:
                    for i in range(len(row)):
                        row[i] += weight * own[i]


@compiled
def _added_up(values: Array, tables: Ints, starts: Ints, places: Ints, column: Ints, choices: Ints, found: Array
              ) -> None:
    for r in range(len(choices)):
        for f in range(len(places)):
            at = choices[r, places[f, 0]]
            if places[f, 1] >= 0:
                at = at * places[f, 2] + choices[r, places[f, 1]]
            for t in range(starts[f], starts[f + 1]):
                kind = column[tables[t, 0]]
                if kind >= 0:
                    found[r, kind] += values[tables[t, 1] + at]
