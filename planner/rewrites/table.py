"""The table of rewrites: name -> `Rule`.

A file in this folder registers its rules with `@rewrite(...)` over the function that makes the replacement; nothing
else is needed. Users extend the table from outside with the same decorator.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.core.graph import Graph
from planner.registry import Table
from planner.rewrites.pattern import Call, Match, Siblings

Finder = Callable[[Graph], Iterable[Match]]
"""Where a rule applies, told by a function: for what no term can say, as whether two operators are equal."""

Pattern = Call | tuple[Call, ...] | Siblings | Finder

Samples = Callable[[np.random.Generator], tuple[Callable[..., Any], tuple[Any, ...]]]
"""A function in which the pattern occurs, and NumPy arrays to give it, of random shapes."""


@dataclass(frozen=True)
class Rule:
    """One algebraic identity, used from left to right.

    Attributes:
      name: `"fuse_matmuls"`.
      says: what becomes what, in a line.
      pattern: where it applies.
      replace: `(match, *arrays) -> array or arrays`: a JAX function of what the pattern's variables stand for, in the
        order in which they first appear in it; it makes the pattern's results, of the same shapes and dtypes.
      where: the side condition, on shapes, dtypes and parameters.
      samples: for the contract test, which proves the rule by evaluation.
      rounding: whether floating-point results, or terms that make up gradients, may differ in their last bits or in
        the sign of a zero.
      assumes: what has to be true for the results to be equal, or "".
    """

    name: str
    says: str
    pattern: Pattern
    replace: Callable[..., Any]
    where: Callable[[Match], bool]
    samples: Samples
    rounding: bool = True
    assumes: str = ""

    @property
    def family(self) -> str:
        """The file that it is in: rules of one kind."""
        return self.replace.__module__.rpartition(".")[2]

    @property
    def about(self) -> str:
        """What the rules of its family are about, as its file begins."""
        whole = (sys.modules[self.replace.__module__].__doc__ or "").strip().partition("\n\n")[0]
        return " ".join(whole.split()).rstrip(".")

    @property
    def why(self) -> str:
        """What it is good for, or how it does it."""
        return " ".join((self.replace.__doc__ or "").split())


RULES: Table[Rule] = Table("planner.rewrites", "rewrite")


def always(_: Match) -> bool:
    """The side condition of a rule that has none."""
    return True


def rewrite(name: str, says: str, pattern: Pattern, *, samples: Samples, where: Callable[[Match], bool] = always,
            rounding: bool = True, assumes: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: file the function that makes the replacement as a rule. See `Rule` for what is given.

    Raises:
      ValueError: the name is taken.
    """

    def add(replace: Callable[..., Any]) -> Callable[..., Any]:
        RULES.register(name)(Rule(name, says, pattern, replace, where, samples, rounding, assumes))
        return replace

    return add
