"""Min-sum variable elimination with dense tables: the best cost for each choice of a few kept variables.

Minimises sum_v unary[v][x_v] + sum_(a,b) edge[a,b][x_a, x_b] exactly (Dechter, "Bucket elimination", 1999). Variables
are removed one at a time, the one that leaves the smallest table first: the tables that mention it are added up and
minimised over it, which gives a table over its neighbours. An optimal assignment is read back in reverse order, by
minimising the same tables for the neighbours' choices already made; the tables are kept for that and no argmin is
stored.

In: float costs (`np.inf` = forbidden), with or without a leading batch axis. Out: an `Elimination`. No memory limit
here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from planner.errors import InfeasibleError, ProblemError
from planner.solvers.elimination_code import EliminationCode, Scope, elimination_code
from planner.solvers.elimination_run import read_back, rows_for, run

Floats = NDArray[np.float64]

Factor = tuple[Scope, Floats]
"""The variables of a table, and the table with a leading batch axis (of length 1 if not batched)."""


@dataclass(frozen=True)
class Elimination:
    """What elimination found.

    Attributes:
      table: minimum cost over the eliminated variables, shape [domain of keep[0], domain of keep[1], ...], with a
        leading batch axis where the input had one; `np.inf` where nothing is allowed.
      code: the steps that were taken.
      rows: all tables, [batch, ...], as `code` says.
      batched: whether the input had a batch axis.
    """

    table: Floats
    code: EliminationCode
    rows: Floats
    batched: bool

    @property
    def keep(self) -> Scope:
        """The kept variables."""
        return self.code.keep

    @overload
    def decode(self, kept_choice: Sequence[int], /) -> NDArray[np.int64]: ...
    @overload
    def decode(self, g: int, kept_choice: Sequence[int], /) -> NDArray[np.int64]: ...

    def decode(self, *where: int | Sequence[int]) -> NDArray[np.int64]:
        """An optimal assignment [variables], given the choices of the kept variables (and the batch index `g`, first).

        Raises:
          InfeasibleError: the kept choice allows no assignment.
        """
        g, kept = where if self.batched else (0, *where)
        assert isinstance(g, int | np.integer) and not isinstance(kept, int)
        index = (g, *kept) if self.batched else tuple(kept)
        if len(index) != self.table.ndim:
            raise ValueError(f"{len(kept)} choices for {len(self.keep)} kept variables")
        if np.isinf(self.table[index]):
            raise InfeasibleError(f"no assignment is allowed with choices {tuple(kept)} of variables {self.keep}")
        return self.decode_many(np.array([g]), np.array([kept], dtype=np.int64).reshape(1, len(self.keep)))[0]

    def decode_many(self, batch: NDArray[np.int64], kept: NDArray[np.int64]) -> NDArray[np.int64]:
        """Optimal assignments [rows, variables] for many kept choices at once, by back-substitution.

        Args:
          batch: [rows] batch index (zeros where the problem has no batch axis).
          kept: [rows, len(keep)] choices of the kept variables. A row that allows nothing (`table` says so) gets an
            arbitrary assignment.
        """
        choice = np.zeros((len(batch), len(self.code.domains)), dtype=np.int64)
        choice[:, list(self.keep)] = kept
        read_back(self.code, self.rows, np.minimum(batch, len(self.rows) - 1), choice)
        return choice


def eliminate(
    unary: Sequence[NDArray[np.floating]],
    edges: Mapping[tuple[int, int], NDArray[np.floating]],
    keep: tuple[int, ...],
    max_table: int = 20_000_000,
) -> Elimination:
    """Minimise over every variable but `keep`.

    Args:
      unary: cost per choice of each variable, [n] or [G, n]; G is the same wherever it is present.
      edges: (a, b) -> cost per pair of choices, [n_a, n_b] or [G, n_a, n_b].
      keep: variables left in the result, in the order of its axes.
      max_table: limit on the entries of any table (batch included); memory is 8 bytes an entry and a table per
        variable.

    Raises:
      WidthExceeded: a table would be larger than `max_table`. Nothing has been computed by then.
      ProblemError: a shape doesn't fit, an index is out of range, or a cost is NaN or -inf.
    """
    domains = tuple(u.shape[-1] for u in unary)
    factors = _unary_factors(unary) + _edge_factors(edges, domains)
    batch = _batch_size([table for _, table in factors])
    batched = any(a.ndim == 2 for a in unary) or any(e.ndim == 3 for e in edges.values())
    if len(set(keep)) != len(keep) or not all(0 <= v < len(unary) for v in keep):
        raise ProblemError(f"kept variables {keep} are not distinct variables of 0..{len(unary) - 1}")
    code = elimination_code(domains, [scope for scope, _ in factors], keep, batch, max_table)
    rows = rows_for(code, batch)
    for start, (_, table) in zip(code.starts, factors, strict=True):
        rows[:, start:start + table[0].size] = table.reshape(len(table), -1)
    table = run(code, rows)
    return Elimination(table if batched else table[0], code, rows, batched)


def _unary_factors(unary: Sequence[NDArray[np.floating]]) -> list[Factor]:
    found: list[Factor] = []
    for v, costs in enumerate(unary):
        if costs.ndim not in (1, 2) or costs.shape[-1] == 0:
            raise ProblemError(f"variable {v}: unary costs of shape {costs.shape}, wanted [n] or [G, n] with n > 0")
        found.append(((v,), _checked(np.atleast_2d(costs), f"variable {v}")))
    return found


def _edge_factors(edges: Mapping[tuple[int, int], NDArray[np.floating]], domains: tuple[int, ...]) -> list[Factor]:
    found: list[Factor] = []
    for (a, b), costs in edges.items():
        if a == b or not (0 <= a < len(domains) and 0 <= b < len(domains)):
            raise ProblemError(f"edge ({a}, {b}) does not join two different variables of 0..{len(domains) - 1}")
        if costs.ndim not in (2, 3) or costs.shape[-2:] != (domains[a], domains[b]):
            want = f"[..., {domains[a]}, {domains[b]}]"
            raise ProblemError(f"edge ({a}, {b}): costs of shape {costs.shape}, wanted {want}")
        found.append(((a, b), _checked(costs if costs.ndim == 3 else costs[None], f"edge ({a}, {b})")))
    return found


def _checked(costs: NDArray[np.floating], where: str) -> Floats:
    table = np.asarray(costs, dtype=np.float64)
    if not (table > -np.inf).all():
        raise ProblemError(f"{where}: a cost is NaN or -inf")
    return table


def _batch_size(tables: Sequence[Floats]) -> int:
    sizes = {len(table) for table in tables} - {1}
    if len(sizes) > 1:
        raise ProblemError(f"batch axes of different lengths: {sorted(sizes)}")
    return sizes.pop() if sizes else 1
