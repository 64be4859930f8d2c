"""Whether two terms are equal for other shapes and inputs than those of the enumeration, in float64; and the most
general identity that an equal pair is an instance of.

An identity is made more general by giving a subterm that both sides share a name of its own, and by giving inputs that
are read several times a name for each time, as long as it stays true.

In: pairs of terms. Out: shapes for which they are equal; pairs.
"""

from collections.abc import Iterator, Mapping
from itertools import islice, product

import numpy as np

from planner.rewriting.generating.operators import computed
from planner.rewriting.generating.sizes import Shape, UnequalError, at, shapes_of
from planner.rewriting.generating.terms import (
    Term,
    apply,
    given,
    inputs_of,
    names_of,
    operators,
    renamed,
)

TRIALS = 3
"""Draws of shapes and inputs. [chosen: random reals agree by chance to 9 digits in none]"""

LARGEST_SIZE = 5
"""Of an unknown size. [chosen]"""

TOLERANCE = 1e-9
"""Of the largest element, in float64. [as in proofs of rules]"""

WAYS = 300
"""Ways tried to tell apart inputs of one name. [chosen: four readers on each side are 256]"""


def shapes_where_equal(left: Term, right: Term, seed: int) -> dict[Term, Shape] | None:
    """The most general shapes of all subterms, if the terms are equal for them; None if they are not, or if a vector
    is repeated and neither inputs nor the result say how often."""
    try:
        shapes = shapes_of(left, right)
    except UnequalError:
        return None
    said = {u for name in inputs_of(left, right) for size in shapes[given(name)] for u in size}
    said.update(u for size in shapes[left] for u in size)
    if any(u not in said for shape in shapes.values() for size in shape for u in size):
        return None
    rng = np.random.default_rng([seed, 2])
    for _ in range(TRIALS):
        sizes = {u: int(rng.integers(1, LARGEST_SIZE + 1)) for u in sorted(said)}
        if not _equal(left, right, at(shapes, sizes), rng):
            return None
    return shapes


def _equal(left: Term, right: Term, shapes: Mapping[Term, tuple[int, ...]], rng: np.random.Generator) -> bool:
    env = {given(name): _drawn(shapes[given(name)], rng) for name in inputs_of(left, right)}
    one, other = (np.asarray(computed(term, env, shapes, np)) for term in (left, right))
    if one.shape != other.shape or not np.all(np.isfinite(one)) or not np.all(np.isfinite(other)):
        return False
    return bool(np.max(np.abs(one - other)) <= TOLERANCE * max(1.0, float(np.max(np.abs(one)))))


def _drawn(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Numbers of both signs that are not near zero: some are divided by."""
    return rng.choice([-1.0, 1.0], shape) * rng.uniform(0.5, 2.0, shape)


def most_general(left: Term, right: Term, seed: int) -> tuple[Term, Term]:
    """The identity of which this one is an instance, as far as it is found."""
    found = _first_true(_with_named_parts(left, right), seed)
    while found is not None:
        left, right = found
        found = _first_true(_with_named_parts(left, right), seed)
    for name in inputs_of(left, right):
        found = _first_true(islice(_told_apart(left, right, name), WAYS), seed)
        left, right = (left, right) if found is None else found
    return renamed(left, right)


def _first_true(pairs: Iterator[tuple[Term, Term]], seed: int) -> tuple[Term, Term] | None:
    return next((pair for pair in pairs if shapes_where_equal(*pair, seed) is not None), None)


def _with_named_parts(left: Term, right: Term) -> Iterator[tuple[Term, Term]]:
    """The pair with an input in the place of something that is computed, the largest first."""
    taken = inputs_of(left, right)
    for part in sorted(operators(left, right), reverse=True):
        free = [name for name in names_of(part.rank) if name not in taken]
        if free:
            yield _with(left, part, given(free[0])), _with(right, part, given(free[0]))


def _with(term: Term, old: Term, new: Term) -> Term:
    if term == old:
        return new
    return apply(term.head, *(_with(arg, old, new) for arg in term.args)) if term.args else term


def _told_apart(left: Term, right: Term, name: str) -> Iterator[tuple[Term, Term]]:
    """The pair with a name for each time that the left side reads an input, or else the right."""
    taken = inputs_of(left, right)
    free = [name, *(n for n in names_of(given(name).rank) if n not in taken)]
    for one, other, swapped in ((left, right, False), (right, left, True)):
        here, there = _times(one, name), _times(other, name)
        if not 1 < here <= len(free) or not there:
            continue
        names = free[:here]
        first = _read_as(one, name, iter(names))
        for chosen in product(names, repeat=there):
            if len(set(chosen)) > 1:
                second = _read_as(other, name, iter(chosen))
                yield (second, first) if swapped else (first, second)


def _times(term: Term, name: str) -> int:
    return sum(_times(arg, name) for arg in term.args) if term.args else int(term.head == name)


def _read_as(term: Term, name: str, names: Iterator[str]) -> Term:
    """The term with an input called otherwise each time that it is read."""
    if not term.args:
        return given(next(names)) if term.head == name else term
    return apply(term.head, *[_read_as(arg, name, names) for arg in term.args])


