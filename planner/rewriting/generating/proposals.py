"""What is proposed: identities with a direction, ordered by promise, those that are images of others beside them.

Two changes of every operator keep identities true: transposing everything (rows for columns, products the other way
round), and putting halves the other way round. What such a change makes of a proposal is named with it, not beside it.

In: identities and their shapes. Out: `Proposal`s.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from planner.rewriting.generating.promise import Cost, cost_of, gain
from planner.rewriting.generating.sizes import Shape
from planner.rewriting.generating.terms import Term, apply, inputs_of, renamed


@dataclass(frozen=True)
class Proposal:
    """An identity that is proposed as a rule from left to right.

    Attributes:
      left, right: the sides.
      shapes: of all subterms, in unknowns.
      dear, cheap: what the sides cost.
      images: identities that follow from it by symmetry and were found as well.
    """

    left: Term
    right: Term
    shapes: Mapping[Term, Shape]
    dear: Cost
    cheap: Cost
    images: tuple[tuple[Term, Term], ...] = ()

    @property
    def gain(self) -> int:
        """Which of `promise.GAINS` it is for."""
        return gain(self.dear, self.cheap)


def directed(one: Term, other: Term, shapes: Mapping[Term, Shape]) -> Proposal:
    """A proposal from the dear side to the cheap one; the other way round where that would need another input."""
    costs = cost_of(one, shapes), cost_of(other, shapes)
    needs = set(inputs_of(one)), set(inputs_of(other))
    first, second = (costs[0].numbers(), one), (costs[1].numbers(), other)
    turned = second > first if needs[0] == needs[1] else needs[0] < needs[1]
    if turned:
        return Proposal(other, one, shapes, costs[1], costs[0])
    return Proposal(one, other, shapes, *costs)


def ordered(found: Iterable[Proposal]) -> tuple[Proposal, ...]:
    """By promise: what they gain, then by how much, then by length; images with the first of their kind."""
    by_promise = sorted(found, key=lambda p: (p.gain, _ratios(p), p.left.length + p.right.length, p.left, p.right))
    first: dict[tuple[Term, Term], int] = {}
    kept: list[Proposal] = []
    images: dict[int, list[tuple[Term, Term]]] = {}
    for p in by_promise:
        keys = {_key(change(p.left), change(p.right)) for change in CHANGES}
        place = next((first[key] for key in sorted(keys) if key in first), None)
        if place is None:
            first[_key(p.left, p.right)] = len(kept)
            kept.append(p)
        else:
            images.setdefault(place, []).append((p.left, p.right))
    return tuple(Proposal(p.left, p.right, p.shapes, p.dear, p.cheap, tuple(images.get(k, ())))
                 for k, p in enumerate(kept))


def _ratios(proposal: Proposal) -> tuple[float, ...]:
    return tuple(after / max(1, before) for before, after in
                 zip(proposal.dear.numbers(), proposal.cheap.numbers(), strict=True))


def _key(left: Term, right: Term) -> tuple[Term, Term]:
    """Equal for pairs that differ in direction and names of inputs."""
    return min(renamed(left, right), renamed(right, left), renamed(*renamed(right, left)[::-1]))


def transposed(term: Term) -> Term:
    """The transpose of a matrix as a term over transposed inputs; a vector stays one."""
    args = tuple(map(transposed, term.args))
    if not args:
        return term
    if term.head == "matmul":
        args = args[::-1]
    two = term.rank == 2 or term.args[0].rank == 2
    return apply(_TRANSPOSED.get(term.head, term.head) if two else term.head, *args)


def swapped(term: Term) -> Term:
    """The term over inputs whose rows and columns stand the other way round, if it takes halves or joins."""
    args = tuple(map(swapped, term.args))
    if not args:
        return term
    if term.head.startswith("join"):
        args = args[::-1]
    return apply(_SWAPPED.get(term.head, term.head), *args)


_TRANSPOSED = MappingProxyType({a: b for pair in (
    ("sum0", "sum1"), ("rows", "columns"), ("join0", "join1"), ("first0", "first1"), ("second0", "second1"))
    for a, b in (pair, pair[::-1])})

_SWAPPED = MappingProxyType({a: b for pair in (("first0", "second0"), ("first1", "second1"))
                             for a, b in (pair, pair[::-1])})

CHANGES: tuple[Callable[[Term], Term], ...] = (transposed, swapped, lambda term: transposed(swapped(term)))
"""What keeps identities true."""
