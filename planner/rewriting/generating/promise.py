"""What an identity is good for: arithmetic, products and reductions, what is reduced, what is written.

Costs are polynomials in the unknown sizes. A direction is chosen, from dear to cheap, and identities are ordered by
what they may gain: less arithmetic, fewer products and reductions, a reduction of fewer elements (which is what devices
that share a reduced dimension send), fewer elements written, nothing.

In: pairs of terms with shapes. Out: `Promise`s.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from planner.rewriting.generating.sizes import Shape, Size
from planner.rewriting.generating.terms import Term, operators

Polynomial = Mapping[tuple[int, ...], int]
"""Unknowns that are multiplied, sorted -> how often."""

REDUCTIONS = frozenset({"matmul", "sum0", "sum1"})

MOVES = frozenset({"transpose", "rows", "columns", "join0", "join1", "first0", "second0", "first1", "second1"})
"""Operators without arithmetic."""

LARGE = 64
"""Of every unknown where costs are compared. [chosen: products dwarf sums, sums dwarf constants]"""

GAINS = ("less arithmetic", "fewer products and reductions", "less is reduced", "less is written", "the same cost")
"""What a direction is good for, the most promising first."""


@dataclass(frozen=True)
class Cost:
    """Of one side.

    Attributes:
      arithmetic: operations: 2 for each step of a product, 1 for each element otherwise.
      reductions: products and sums over a dimension.
      reduced: elements of their results.
      written: elements of the results of all operators.
    """

    arithmetic: Polynomial
    reductions: int
    reduced: Polynomial
    written: Polynomial

    def numbers(self) -> tuple[int, int, int, int]:
        """In that order, for large sizes."""
        return at_large(self.arithmetic), self.reductions, at_large(self.reduced), at_large(self.written)


def cost_of(term: Term, shapes: Mapping[Term, Shape]) -> Cost:
    """What a term costs where each of its operators is computed once."""
    arithmetic, reduced, written = Counter[tuple[int, ...]](), Counter[tuple[int, ...]](), Counter[tuple[int, ...]]()
    reductions = 0
    for op in operators(term):
        size = _elements(shapes[op])
        written.update(size)
        if op.head == "matmul":
            steps = _elements((*shapes[op], shapes[op.args[0]][-1]))
            arithmetic.update({unknowns: 2 * n for unknowns, n in steps.items()})
        elif op.head in REDUCTIONS:
            arithmetic.update(_elements(shapes[op.args[0]]))
        elif op.head not in MOVES:
            arithmetic.update(size)
        if op.head in REDUCTIONS:
            reduced.update(size)
            reductions += 1
    return Cost(arithmetic, reductions, reduced, written)


def gain(dear: Cost, cheap: Cost) -> int:
    """Which of `GAINS` it is: the first in which one is cheaper; rounding up to a tenth of arithmetic is the same."""
    before, after = dear.numbers(), cheap.numbers()
    if 10 * after[0] < 9 * before[0]:
        return 0
    return next((k for k in range(1, 4) if after[k] < before[k]), 4)


def at_large(polynomial: Polynomial) -> int:
    """Its value for large sizes."""
    return sum(n * LARGE ** len(unknowns) for unknowns, n in polynomial.items())


def written(polynomial: Polynomial, names: Mapping[int, str]) -> str:
    """`"2mkn + mn"`."""
    terms = sorted(polynomial.items(), key=lambda item: (-len(item[0]), item[0]))
    return " + ".join(f"{n if n != 1 or not unknowns else ''}{''.join(names[u] for u in unknowns)}"
                      for unknowns, n in terms) or "0"


def _elements(shape: tuple[Size, ...]) -> Counter[tuple[int, ...]]:
    found: Counter[tuple[int, ...]] = Counter({(): 1})
    for size in shape:
        product: Counter[tuple[int, ...]] = Counter()
        for unknowns, n in found.items():
            for u in size:
                product[tuple(sorted((*unknowns, u)))] += n
        found = product
    return found
