"""Small computations as terms: an operator's name over terms, or an input.

Equal terms are one computation, so that the operators of a term are its distinct subterms: what is written twice is
computed once. Operands of operators that commute stand in order. Terms are ordered by their length first: a term comes
after its subterms.

In: names of operators and inputs. Out: `Term`s, bindings, terms with their inputs called otherwise.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

COMMUTATIVE = frozenset({"add", "mul"})

INPUTS: Mapping[str, int] = MappingProxyType({
    "x": 2, "y": 2, "z": 2, "w": 2, "p": 2, "q": 2, "u": 1, "v": 1, "a": 1, "b": 1, "s": 0, "t": 0, "c": 0, "d": 0})
"""Name -> rank: matrices, vectors, scalars."""

_RANK_CHANGES = MappingProxyType({"sum0": -1, "sum1": -1, "rows": 1, "columns": 1})


class Term(NamedTuple):
    """An input (no operands) or an operator over terms. Made by `given` and `apply`.

    Attributes:
      length: symbols written.
      rank: number of dimensions of the result.
      head: name of the input or operator.
      args: operands.
    """

    length: int
    rank: int
    head: str
    args: tuple["Term", ...]


Binding = Mapping[str, Term]


def given(name: str) -> Term:
    """An input."""
    return Term(1, INPUTS[name], name, ())


def apply(head: str, *args: Term) -> Term:
    """An operator over terms, its operands in order if it commutes."""
    length = 1
    for arg in args:
        length += arg.length
    if head == "matmul":
        rank = args[0].rank + args[1].rank - 2
    else:
        rank = args[-1].rank + _RANK_CHANGES.get(head, 0)
    if head in COMMUTATIVE and args[1] < args[0]:
        args = args[::-1]
    return Term(length, rank, head, args)


def subterms(term: Term) -> Iterator[Term]:
    """All that is computed, inputs included, operands before what reads them; may repeat."""
    for arg in term.args:
        yield from subterms(arg)
    yield term


def operators(*terms: Term) -> list[Term]:
    """The distinct operators of terms, operands before what reads them."""
    return [t for t in dict.fromkeys(s for term in terms for s in subterms(term)) if t.args]


def inputs_of(*terms: Term) -> list[str]:
    """Names of inputs, in the order in which they first appear."""
    return list(dict.fromkeys(s.head for term in terms for s in subterms(term) if not s.args))


def substituted(term: Term, binding: Binding) -> Term:
    """The term with terms in the place of inputs; what is not bound stays."""
    if not term.args:
        return binding.get(term.head, term)
    return apply(term.head, *[substituted(arg, binding) for arg in term.args])


def bindings(pattern: Term, term: Term, bound: Binding, *, any_rank: bool = False) -> Iterator[Binding]:
    """Ways to bind the inputs of a pattern so that it becomes the term: each to a term of its rank, or, if it is asked
    for and the input is no scalar, to any that is no scalar."""
    if not pattern.args:
        known = bound.get(pattern.head)
        if known is None:
            if pattern.rank == term.rank or (any_rank and pattern.rank and term.rank):
                yield {**bound, pattern.head: term}
        elif known == term:
            yield bound
    elif pattern.head == term.head:
        if len(pattern.args) == 1:
            yield from bindings(pattern.args[0], term.args[0], bound, any_rank=any_rank)
            return
        ways = [term.args, term.args[::-1]] if pattern.head in COMMUTATIVE else [term.args]
        for first, second in ways[:1] if term.args[0] == term.args[1] else ways:
            for found in bindings(pattern.args[0], first, bound, any_rank=any_rank):
                yield from bindings(pattern.args[1], second, found, any_rank=any_rank)


def names_of(rank: int) -> list[str]:
    """Names of inputs of a rank, in order."""
    return [name for name, r in INPUTS.items() if r == rank]


def renamed(left: Term, right: Term) -> tuple[Term, Term]:
    """A pair with its inputs called by the first names of their ranks, in the order in which they appear."""
    free = {r: names_of(r) for r in range(3)}
    names = {old: given(free[INPUTS[old]].pop(0)) for old in inputs_of(_by_shape(left), _by_shape(right))}
    return substituted(left, names), substituted(right, names)


def _by_shape(term: Term) -> Term:
    """The term with operands that may stand either way ordered by what they are but for the names of inputs."""
    args = tuple(map(_by_shape, term.args))
    return term._replace(args=tuple(sorted(args, key=_nameless)) if term.head in COMMUTATIVE else args)


def _nameless(term: Term) -> Term:
    if not term.args:
        return term._replace(head="")
    args = tuple(map(_nameless, term.args))
    return term._replace(args=tuple(sorted(args)) if term.head in COMMUTATIVE else args)
