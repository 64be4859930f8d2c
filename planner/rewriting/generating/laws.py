"""Identities that are known, and whether another one follows from them.

First both sides are rewritten to smaller terms as long as any identity allows it, each identity used in whichever
direction makes the term smaller in their total order (ordered rewriting, the heart of unfailing completion: Bachmair,
Dershowitz and Plaisted, 1989); most that follow have then become the same. For the others, steps that make a term
larger are tried as well, from both sides and up to a number of terms.

In: pairs of terms. Out: whether one follows from others. A `False` means "not found within the bound".
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush

from planner.rewriting.generating.terms import (
    INPUTS,
    Term,
    apply,
    bindings,
    inputs_of,
    operators,
    substituted,
)

OF_ANY_RANK = frozenset({
    "add", "sub", "mul", "div", "neg", "inverse", "relu", "exp", "scale", "sum0", "join0", "first0", "second0"})
"""An identity of these alone holds for vectors if it does for matrices: a vector is a matrix of one column."""

LOOKED_AT = 100
"""Terms expanded from each side. [chosen: what follows at all was found within 20 in nearly all cases]"""

LONGER = 3
"""Symbols by which a term on the way may be longer than both ends. [chosen]"""


@dataclass(frozen=True)
class Law:
    """An identity in one direction."""

    left: Term
    right: Term
    any_rank: bool


@dataclass
class Laws:
    """Identities, by the operator that their left side begins with."""

    by_head: dict[str, list[Law]] = field(default_factory=lambda: defaultdict(list[Law]))
    _normal: dict[Term, Term] = field(default_factory=dict[Term, Term])

    def learn(self, one: Term, other: Term) -> None:
        """Use an identity from now on, in every direction in which what it makes reads no further input."""
        any_rank = all(t.head in OF_ANY_RANK for t in operators(one, other)) and \
            any(INPUTS[name] for name in inputs_of(one, other))
        for left, right in ((one, other), (other, one)):
            if left.args and set(inputs_of(right)) <= set(inputs_of(left)):
                self.by_head[left.head].append(Law(left, right, any_rank))
        self._normal.clear()

    def normal(self, term: Term) -> Term:
        """What a term becomes by steps that make it smaller."""
        known = self._normal.get(term)
        if known is None:
            known = self._normal[term] = self._smaller(term)
        return known

    def _smaller(self, term: Term) -> Term:
        if not term.args:
            return term
        term = apply(term.head, *map(self.normal, term.args))
        for law in self.by_head[term.head]:
            for bound in bindings(law.left, term, {}, any_rank=law.any_rank):
                found = substituted(law.right, bound)
                if found < term:
                    return self.normal(found)
        return term

    def imply(self, one: Term, other: Term) -> bool:
        """Whether two terms are found to be equal."""
        ends = self.normal(one), self.normal(other)
        if ends[0] == ends[1]:
            return True
        limit = max(end.length for end in ends) + LONGER
        seen = [{ends[0]}, {ends[1]}]
        waiting = [[ends[0]], [ends[1]]]
        for turn in range(2 * LOOKED_AT):
            side = turn % 2
            if not waiting[side]:
                continue
            for found in self._near(heappop(waiting[side]), limit):
                if found in seen[1 - side]:
                    return True
                if found not in seen[side]:
                    seen[side].add(found)
                    heappush(waiting[side], found)
        return False

    def _near(self, term: Term, limit: int) -> Iterator[Term]:
        """What one step in any direction makes of a term, and what smaller steps make of that: which may lead back."""
        for found in self._stepped(term):
            if found.length <= limit:
                yield from (found, self.normal(found))

    def _stepped(self, term: Term) -> Iterator[Term]:
        for law in self.by_head[term.head]:
            for bound in bindings(law.left, term, {}, any_rank=law.any_rank):
                yield substituted(law.right, bound)
        for k, arg in enumerate(term.args):
            for found in self._stepped(arg):
                yield apply(term.head, *term.args[:k], found, *term.args[k + 1:])
