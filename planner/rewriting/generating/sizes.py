"""The most general shapes of terms: what sizes of their inputs may be, and which of them have to be equal.

A size is a sum of unknowns, written as a sorted tuple: what is joined of `a` and `b` has `a + b` rows, and half of
`a + a` is `a`. Unknowns are equated, or replaced by sums, as operators ask for it (unification). Where two sums can be
made equal in several ways, the one that pairs them in order is taken: a special case of the general shapes.

In: terms. Out: shapes of every subterm.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from planner.rewriting.generating.terms import Term

Size = tuple[int, ...]
Shape = tuple[Size, ...]


class UnequalError(Exception):
    """Sizes that have to be equal can't be."""


@dataclass
class Shapes:
    """Shapes under way: unknowns are numbers, some of which stand for a sum of others."""

    replaced: dict[int, Size] = field(default_factory=dict[int, Size])
    known: dict[Term, Shape] = field(default_factory=dict[Term, Shape])
    unknowns: int = 0

    def fresh(self) -> Size:
        """An unknown of its own."""
        self.unknowns += 1
        return (self.unknowns,)

    def now(self, size: Size) -> Size:
        """The size in unknowns that stand for themselves."""
        return tuple(sorted(v for u in size for v in (self.now(self.replaced[u]) if u in self.replaced else (u,))))

    def equate(self, one: Size, other: Size) -> None:
        """Make two sizes equal.

        Raises:
          UnequalError: they can't be.
        """
        a, b = Counter(self.now(one)), Counter(self.now(other))
        left, right = list((a - b).elements()), list((b - a).elements())
        if len(left) > len(right):
            left, right = right, left
        for u in left[:-1]:
            self._replace(u, (right.pop(0),))
        if left:
            self._replace(left[-1], tuple(right))
        elif right:
            raise UnequalError

    def _replace(self, unknown: int, size: Size) -> None:
        now, size = self.now((unknown,)), self.now(size)
        if now == size:
            return
        if now != (unknown,):
            self.equate(now, size)
        elif unknown in size or not size:
            raise UnequalError
        else:
            self.replaced[unknown] = size

    def half(self, size: Size) -> Size:
        """Half of a size, which is made even."""
        odd = [u for u, n in Counter(self.now(size)).items() if n % 2]
        for u, other in zip(odd[::2], odd[1::2], strict=False):
            self.equate((u,), (other,))
        if len(odd) % 2:
            part = self.fresh()
            self._replace(odd[-1], part + part)
        return self.now(size)[::2]

    def of(self, term: Term) -> Shape:
        """The shape of a term, in unknowns that may be replaced later.

        Raises:
          UnequalError: it has none.
        """
        if term not in self.known:
            if term.args:
                self.known[term] = self._result(term, [self.of(arg) for arg in term.args])
            else:
                self.known[term] = tuple(self.fresh() for _ in range(term.rank))
        return self.known[term]

    def _result(self, term: Term, args: list[Shape]) -> Shape:
        first, last = args[0], args[-1]
        match term.head:
            case "matmul":
                self.equate(first[-1], last[0])
                return first[:-1] + last[1:]
            case "transpose":
                return first[::-1]
            case "sum0" | "sum1":
                axis = int(term.head[-1])
                return first[:axis] + first[axis + 1:]
            case "rows":
                return (self.fresh(), *first)
            case "columns":
                return (*first, self.fresh())
            case "join0" | "join1":
                axis = int(term.head[-1])
                self._same(first[:axis] + first[axis + 1:], last[:axis] + last[axis + 1:])
                return (*first[:axis], first[axis] + last[axis], *first[axis + 1:])
            case "first0" | "second0" | "first1" | "second1":
                axis = int(term.head[-1])
                return (*first[:axis], self.half(first[axis]), *first[axis + 1:])
            case "scale":
                return last
            case _:
                self._same(first, last)
                return first

    def _same(self, one: Shape, other: Shape) -> None:
        for a, b in zip(one, other, strict=True):
            self.equate(a, b)


def shapes_of(left: Term, right: Term) -> dict[Term, Shape]:
    """Shapes of all subterms of two terms that shall be equal, in unknowns.

    Raises:
      UnequalError: there are none.
    """
    found = Shapes()
    for a, b in zip(found.of(left), found.of(right), strict=True):
        found.equate(a, b)
    return {term: tuple(map(found.now, shape)) for term, shape in found.known.items()}


def at(shapes: Mapping[Term, Shape], unknowns: Mapping[int, int]) -> dict[Term, tuple[int, ...]]:
    """Shapes in numbers, for numbers in the place of unknowns."""
    return {term: tuple(sum(unknowns[u] for u in size) for size in shape) for term, shape in shapes.items()}


def letters(shapes: Mapping[Term, Shape]) -> dict[int, str]:
    """What unknowns are called when they are written."""
    unknowns = dict.fromkeys(u for shape in shapes.values() for size in shape for u in size)
    return dict(zip(unknowns, "mknpqrabcdefgh", strict=False))


def written(shape: Shape, names: Mapping[int, str]) -> str:
    """`"m×2k"`; `"1"` of a scalar."""
    sizes = []
    for size in shape:
        parts = [f"{n if n > 1 else ''}{names[u]}" for u, n in Counter(size).items()]
        sizes.append(parts[0] if len(parts) == 1 else "(" + "+".join(parts) + ")")
    return "×".join(sizes) or "1"
