"""Keeping to a budget: each part of a measurement gets its share of the time that is left, and says how far it is.

What a part leaves unused goes to the parts after it; repeats stop when a share is used up, so that a slow or busy
machine is measured in fewer rounds, not in more time.

In: seconds, parts with their shares. Out: an `Allowance` for each part.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from planner.errors import PlannerError

Clock = Callable[[], float]
"""Seconds since some moment."""

Progress = Callable[[str, float], None]
"""Told what is being measured, and the share that is done."""

Item = TypeVar("Item")


def _untold(_: float) -> None:
    """For whoever doesn't ask how far things are."""


@dataclass(frozen=True)
class Allowance:
    """Time until `until` on `clock`; `tell` hears the share of this part that is done."""

    until: float = math.inf
    clock: Clock = time.perf_counter
    tell: Callable[[float], None] = _untold

    def left_s(self) -> float:
        """Seconds that are left, not below zero."""
        return max(0.0, self.until - self.clock())

    def each(self, items: Sequence[Item]) -> Iterator[tuple[Item, "Allowance"]]:
        """Every item with an equal share of what is left when its turn comes."""
        for n, item in enumerate(items):
            first, part = n / len(items), 1 / len(items)
            self.tell(first)
            until = self.clock() + self.left_s() * 1 / (len(items) - n)
            yield item, Allowance(until, self.clock,
                                  lambda share, first=first, part=part: self.tell(first + part * share))


@dataclass(frozen=True)
class Pace:
    """The parts of a measurement in order, with the seconds that each usually takes, and when all should be over."""

    parts: tuple[tuple[str, float], ...]
    until: float
    clock: Clock
    told: Progress

    @classmethod
    def of(cls, parts: Sequence[tuple[str, float]], budget_s: float, told: Progress,
           clock: Clock = time.perf_counter) -> "Pace":
        """A pace that starts now.

        Raises:
          PlannerError: a budget that is not a number above zero.
        """
        if not budget_s > 0 or math.isinf(budget_s):
            raise PlannerError(f"a budget of {budget_s:g} seconds to measure in", "give seconds, e.g. 150")
        return cls(tuple(parts), clock() + budget_s, clock, told)

    def take(self, part: str) -> Allowance:
        """The share of a part, of what is left now."""
        names = [name for name, _ in self.parts]
        n = names.index(part)
        weights = [weight for _, weight in self.parts]
        whole, before, here = sum(weights), sum(weights[:n]), weights[n]
        left = max(0.0, self.until - self.clock())

        def tell(share: float) -> None:
            self.told(part, (before + here * share) / whole)

        tell(0.0)
        return Allowance(self.clock() + left * here / sum(weights[n:]), self.clock, tell)
