"""Variable elimination written down as steps of numbers, so that one compiled loop takes them (`elimination_run.py`).

Where tables stand, in which order variables go, which tables are added up first and how each is read depends on domains
and scopes alone: layers are solved at many prices, and on many meshes, with the same steps.

All tables of a batch item are one row of numbers: the factors as they are given, a zero, the message that each step
leaves over the variable's neighbours, the result, and room for sums of a step. A step is one of

    [ADD, to, dimensions, at, at, sizes..., strides..., strides...]       a sum of two tables, over all dimensions
    [MIN, to, dimensions, tables, domain, sizes..., (at, stride of the variable, strides...)...]

with the strides of a table 0 where it lacks a dimension. In: domain sizes, scopes. Out: an `EliminationCode`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

from planner.errors import PlannerError
from planner.solvers.elimination_order import elimination_order

ADD, MIN = 1, 2

Scope = tuple[int, ...]


class WidthExceeded(PlannerError):
    """Elimination would need a table over the limit. `sizes` are the domain sizes of that table, `entries` its size."""

    def __init__(self, sizes: tuple[int, ...], entries: int, limit: int) -> None:
        super().__init__(
            f"elimination needs a table of {' x '.join(map(str, sizes))} = {entries} entries; the limit is {limit}",
            "raise max_table, keep fewer variables, or use another solver",
        )
        self.sizes = sizes
        self.entries = entries


@dataclass(frozen=True)
class Table:
    """A table in a row: the variables it is over, where it begins, from one choice of each to the next."""

    scope: Scope
    at: int
    strides: tuple[int, ...]

    def stride(self, variable: int) -> int:
        """Of a variable; 0 if the table is not over it."""
        return self.strides[self.scope.index(variable)] if variable in self.scope else 0


@dataclass(frozen=True)
class EliminationCode:
    """The steps.

    Attributes:
      domains: of all variables.
      keep: the variables left in the result, in the order of its axes.
      starts: where each factor begins in a row.
      zero: where the zero is.
      result: where the result is.
      length: of a row.
      steps: as the module says, one after another.
      gone: variables in the order that they go, with the tables that mentioned each.
      widest: domain sizes of every table made, and of the result.
    """

    domains: tuple[int, ...]
    keep: Scope
    starts: tuple[int, ...]
    zero: int
    result: int
    length: int
    steps: NDArray[np.int64]
    gone: tuple[tuple[int, tuple[Table, ...]], ...]
    widest: tuple[tuple[int, ...], ...]

    def check(self, batch: int, max_table: int) -> None:
        """Refuse tables of more than `max_table` entries.

        Raises:
          WidthExceeded: one would be.
        """
        for sizes in self.widest:
            if batch * prod(sizes) > max_table:
                raise WidthExceeded(sizes, batch * prod(sizes), max_table)

    @cached_property
    def back(self) -> NDArray[np.int64]:
        """How choices are read back, the last variable that went first: [variable, its domain, tables, (at, stride of
        the variable, others, (other, its stride)...)...] after another."""
        found: list[int] = []
        for v, tables in reversed(self.gone):
            found += [v, self.domains[v], len(tables)]
            for t in tables:
                others = [(u, stride) for u, stride in zip(t.scope, t.strides, strict=True) if u != v]
                found += [t.at, t.stride(v), len(others), *(n for pair in others for n in pair)]
        return np.array(found, dtype=np.int64)


def elimination_code(domains: tuple[int, ...], scopes: Sequence[Scope], keep: Scope, batch: int, max_table: int
                     ) -> EliminationCode:
    """The steps that minimise the sum of factors of these scopes over every variable but `keep`. Variables of one
    choice need no step.

    Raises:
      WidthExceeded: a table would be larger than `max_table` for a batch of so many.
    """
    kept, open_ = frozenset(keep), [n > 1 for n in domains]
    starts = [0]
    for scope in scopes:
        starts.append(starts[-1] + prod(domains[v] for v in scope))
    writer = _Writer(domains, starts[-1])
    factors = [writer.table(tuple(v for v in scope if open_[v]), at) for scope, at in zip(scopes, starts, strict=False)]
    closed = frozenset(v for v, several in enumerate(open_) if not several)
    order = elimination_order(domains, [f.scope for f in factors if len(f.scope) > 1], kept | closed,
                              max_table // batch)
    widest = (*(tuple(domains[u] for u in scope) for _, scope in order), tuple(domains[v] for v in keep))
    for sizes in widest:
        if batch * prod(sizes) > max_table:
            raise WidthExceeded(sizes, batch * prod(sizes), max_table)
    mentions: list[list[Table]] = [[] for _ in domains]
    alone = [f for f in factors if not f.scope]
    for f in factors:
        for v in f.scope:
            mentions[v].append(f)
    gone: list[tuple[int, tuple[Table, ...]]] = []
    for v, scope in order:
        mine = tuple(mentions[v])
        message = writer.minimise(v, scope, mine)
        gone.append((v, mine))
        used = {f.at for f in mine}
        for u in scope:
            mentions[u] = [f for f in mentions[u] if f.at not in used] + [message]
        if not scope:
            alone.append(message)
    left = list({f.at: f for v in keep for f in mentions[v]}.values())
    result = writer.total(keep, left, alone)
    return EliminationCode(domains, keep, tuple(starts[:-1]), writer.zero, result.at, writer.length,
                           np.array(writer.steps, dtype=np.int64), tuple(gone), widest)


@dataclass
class _Writer:
    """Writes steps, and keeps account of where tables are."""

    domains: tuple[int, ...]
    zero: int
    steps: list[int] = field(default_factory=list[int])

    def __post_init__(self) -> None:
        self._next = self.length = self.zero + 1

    def table(self, scope: Scope, at: int) -> Table:
        """One without gaps, the last variable's choices beside each other."""
        strides = [1] * len(scope)
        for n in range(len(scope) - 2, -1, -1):
            strides[n] = strides[n + 1] * self.domains[scope[n + 1]]
        return Table(scope, at, tuple(strides))

    def minimise(self, v: int, scope: Scope, tables: Sequence[Table]) -> Table:
        """The message of a variable: the sum of tables, minimised over it. `scope`: its neighbours, the one with the
        largest domain last, which loops run along."""
        message = self._new(scope)
        kept = self._next
        axes: Scope = (v, *scope)
        views: list[Table] = [*tables]
        full = self._size(axes)
        while len(views) > 1:
            size, i, j = min((self._size({*one.scope, *views[j].scope}), i, j)
                             for i, one in enumerate(views) for j in range(i))
            if size >= full:
                break
            merged = self._sum(axes, views[i], views[j])
            views = [*(view for n, view in enumerate(views) if n not in (i, j)), merged]
        if scope:
            views = [view if view.stride(scope[-1]) in (0, 1) else self._sum(axes, view, self._nothing())
                     for view in views]
        self.steps += [MIN, message.at, len(scope), len(views), self.domains[v], *(self.domains[u] for u in scope)]
        for view in sorted(views, key=lambda t: self._size(t.scope)):
            self.steps += [view.at, view.stride(v), *(view.stride(u) for u in scope)]
        self._next = kept
        return message

    def total(self, keep: Scope, tables: Sequence[Table], alone: Sequence[Table]) -> Table:
        """The sum of what is left, over the variables that are kept."""
        found = self._new(keep)
        self._add(found, self._nothing(), self._nothing())
        kept = self._next
        constant = self._new(())
        self._add(constant, self._nothing(), self._nothing())
        for one in alone:
            self._add(constant, constant, one)
        for table in (*tables, constant):
            self._add(found, found, table)
        self._next = kept
        return found

    def _nothing(self) -> Table:
        return Table((), self.zero, ())

    def _sum(self, axes: Scope, one: Table, other: Table) -> Table:
        found = self._new(tuple(u for u in axes if u in one.scope or u in other.scope))
        self._add(found, one, other)
        return found

    def _add(self, to: Table, one: Table, other: Table) -> None:
        self.steps += [ADD, to.at, len(to.scope), one.at, other.at, *(self.domains[u] for u in to.scope),
                       *(one.stride(u) for u in to.scope), *(other.stride(u) for u in to.scope)]

    def _new(self, scope: Scope) -> Table:
        found = self.table(scope, self._next)
        self._next += self._size(scope)
        self.length = max(self.length, self._next)
        return found

    def _size(self, scope: Scope | set[int]) -> int:
        return prod(self.domains[u] for u in scope)
