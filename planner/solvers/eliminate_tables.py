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

from planner.errors import InfeasibleError, PlannerError, ProblemError
from planner.solvers.elimination_order import elimination_order
from planner.solvers.min_sum import least, minimum

Floats = NDArray[np.float64]

BLOCK = 1 << 13
"""Entries of a sum of tables up to which it is formed. [measured: beyond, compiled loops are faster]"""


class WidthExceeded(PlannerError):
    """Elimination would need a table over the limit. `sizes` are the domain sizes of that table, `entries` its size."""

    def __init__(self, sizes: tuple[int, ...], entries: int, limit: int) -> None:
        super().__init__(
            f"elimination needs a table of {' x '.join(map(str, sizes))} = {entries} entries; the limit is {limit}",
            "raise max_table, keep fewer variables, or use another solver",
        )
        self.sizes = sizes
        self.entries = entries


@dataclass(frozen=True, slots=True)
class Factor:
    """A cost table over the variables `scope`; `table` has a leading batch axis (of length 1 if not batched)."""

    scope: tuple[int, ...]
    table: Floats


@dataclass(frozen=True)
class Elimination:
    """What elimination found.

    Attributes:
      table: minimum cost over the eliminated variables, shape [domain of keep[0], domain of keep[1], ...], with a
        leading batch axis where the input had one; `np.inf` where nothing is allowed.
      keep: the kept variables.
      steps: (eliminated variable, the factors that mentioned it), in order of elimination.
      variables: number of variables.
      batched: whether the input had a batch axis.
    """

    table: Floats
    keep: tuple[int, ...]
    steps: tuple[tuple[int, tuple[Factor, ...]], ...]
    variables: int
    batched: bool

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
        choice = np.full((len(batch), self.variables), -1, dtype=np.int64)
        choice[:, list(self.keep)] = kept
        for v, factors in reversed(self.steps):
            rows = [_rows(f, v, batch, choice) for f in factors]
            choice[:, v] = least([table for table, _ in rows], np.stack([at for _, at in rows]))
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
    factors = _unary_factors(unary) + _edge_factors(edges, tuple(u.shape[-1] for u in unary))
    batch = _batch_size(factors)
    batched = any(a.ndim == 2 for a in unary) or any(e.ndim == 3 for e in edges.values())
    domains = tuple(u.shape[-1] for u in unary)
    if len(set(keep)) != len(keep) or not all(0 <= v < len(unary) for v in keep):
        raise ProblemError(f"kept variables {keep} are not distinct variables of 0..{len(unary) - 1}")
    order = elimination_order(domains, [f.scope for f in factors if len(f.scope) > 1], frozenset(keep),
                              max_table // batch)  # fmt: skip
    for sizes in (*(tuple(domains[u] for u in scope) for _, scope in order), tuple(domains[v] for v in keep)):
        if batch * _product(sizes) > max_table:
            raise WidthExceeded(sizes, batch * _product(sizes), max_table)
    mentions: list[list[Factor]] = [[] for _ in unary]
    for f in factors:
        for v in f.scope:
            mentions[v].append(f)
    constants: list[Factor] = []
    steps: list[tuple[int, tuple[Factor, ...]]] = []
    for v, scope in order:
        mine = tuple(mentions[v])
        message = Factor(scope, _minimise([_aligned(f, (v, *scope)) for f in mine]))
        steps.append((v, mine))
        used = {id(f) for f in mine}
        for u in scope:
            mentions[u] = [f for f in mentions[u] if id(f) not in used] + [message]
        if not scope:
            constants.append(message)
    left = list({id(f): f for v in keep for f in mentions[v]}.values()) + constants
    shape = (batch, *(domains[v] for v in keep))
    table = sum((_aligned(f, keep) for f in left), np.zeros((1,) * len(shape)))
    table = np.ascontiguousarray(np.broadcast_to(table, shape))
    return Elimination(table if batched else table[0], keep, tuple(steps), len(unary), batched)


def _minimise(views: list[Floats]) -> Floats:
    """min over axis 1 of the broadcast sum of `views`, without forming that sum where it is large."""
    views = _merge_small(views)
    shape = np.broadcast_shapes(*(v.shape for v in views))
    if _product(shape) <= BLOCK:
        return np.broadcast_to(sum(views[1:], views[0]), shape).min(axis=1)
    return minimum(views)


def _merge_small(views: list[Floats]) -> list[Floats]:
    """Add views up pairwise, the pair with the smallest sum first, while that sum is smaller than the sum of all."""
    full = _product(np.broadcast_shapes(*(v.shape for v in views)))
    while len(views) > 1:
        size, i, j = min(
            (_product(np.broadcast_shapes(views[i].shape, views[j].shape)), i, j)
            for i in range(len(views))
            for j in range(i)
        )
        if size >= full and size > BLOCK:
            return views
        merged = views[i] + views[j]
        views = [v for n, v in enumerate(views) if n not in (i, j)] + [merged]
    return views


def _aligned(factor: Factor, axes: tuple[int, ...]) -> Floats:
    """The factor's table with an axis per variable of `axes` after the batch axis, of length 1 where not in scope."""
    present = [v for v in axes if v in factor.scope]
    table = np.ascontiguousarray(np.transpose(factor.table, (0, *(factor.scope.index(v) + 1 for v in present))))
    sizes = iter(table.shape[1:])
    return table.reshape(table.shape[0], *(next(sizes) if v in factor.scope else 1 for v in axes))


def _rows(factor: Factor, v: int, batch: NDArray[np.int64], choice: NDArray[np.int64]
          ) -> tuple[Floats, NDArray[np.int64]]:
    """The factor's table with `v` last, and per row, the other variables being chosen, where its costs begin there."""
    table = np.ascontiguousarray(np.moveaxis(factor.table, factor.scope.index(v) + 1, -1))
    others = [choice[:, u] for u in factor.scope if u != v]
    where = (np.minimum(batch, len(table) - 1), *others)
    return table, np.ravel_multi_index(where, table.shape[:-1]) * table.shape[-1]


def _unary_factors(unary: Sequence[NDArray[np.floating]]) -> list[Factor]:
    found: list[Factor] = []
    for v, costs in enumerate(unary):
        if costs.ndim not in (1, 2) or costs.shape[-1] == 0:
            raise ProblemError(f"variable {v}: unary costs of shape {costs.shape}, wanted [n] or [G, n] with n > 0")
        found.append(Factor((v,), _checked(np.atleast_2d(costs), f"variable {v}")))
    return found


def _edge_factors(edges: Mapping[tuple[int, int], NDArray[np.floating]], domains: tuple[int, ...]) -> list[Factor]:
    found: list[Factor] = []
    for (a, b), costs in edges.items():
        if a == b or not (0 <= a < len(domains) and 0 <= b < len(domains)):
            raise ProblemError(f"edge ({a}, {b}) does not join two different variables of 0..{len(domains) - 1}")
        if costs.ndim not in (2, 3) or costs.shape[-2:] != (domains[a], domains[b]):
            want = f"[..., {domains[a]}, {domains[b]}]"
            raise ProblemError(f"edge ({a}, {b}): costs of shape {costs.shape}, wanted {want}")
        found.append(Factor((a, b), _checked(costs if costs.ndim == 3 else costs[None], f"edge ({a}, {b})")))
    return found


def _checked(costs: NDArray[np.floating], where: str) -> Floats:
    table = np.asarray(costs, dtype=np.float64)
    if not (table > -np.inf).all():
        raise ProblemError(f"{where}: a cost is NaN or -inf")
    return table


def _batch_size(factors: Sequence[Factor]) -> int:
    sizes = {f.table.shape[0] for f in factors} - {1}
    if len(sizes) > 1:
        raise ProblemError(f"batch axes of different lengths: {sorted(sizes)}")
    return sizes.pop() if sizes else 1


def _product(sizes: Sequence[int]) -> int:
    n = 1
    for s in sizes:
        n *= s
    return n
