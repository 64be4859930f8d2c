"""Apply the exact reductions until nothing changes: a smaller problem, and the way back for its solutions.

In: a `Problem`. Out: a `Reduction`, whose problem has the same optimum less `constant`. Each rule is in `reductions/`
with
its proof. A node is looked at again only after something around it changed.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from planner.core.problem import Problem
from planner.solvers.reductions.dominated import remove_dominated
from planner.solvers.reductions.fold_chain import fold_chain
from planner.solvers.reductions.fold_leaf import fold_leaf
from planner.solvers.reductions.forbidden import remove_forbidden
from planner.solvers.reductions.memory_slack import relax_memory
from planner.solvers.reductions.separable import split_separable
from planner.solvers.workspace import Workspace

Rule = Callable[[Workspace, int], None]

RULES: tuple[Rule, ...] = (remove_forbidden, split_separable, fold_leaf, fold_chain, remove_dominated)
"""Rules for one node, cheapest first."""

LIGHT = RULES[:-1]
"""The same without the dearest, which finds more, sooner, once nodes are merged (`large/prune`)."""


@dataclass(frozen=True)
class Reduction:
    """A reduced problem.

    Attributes:
      constant: cost already decided: optimum of the original = constant + optimum of `problem`.
      impossible: why there is no solution, or "".
    """

    constant: int
    impossible: str
    work: Workspace

    @cached_property
    def problem(self) -> Problem:
        """What remains; its last nodes may be ballast (memory of removed nodes, with a single strategy)."""
        return self.work.as_problem()

    def expand(self, choice: Sequence[int]) -> tuple[int, ...]:
        """A solution of the reduced problem, as one of the original (the cost differs by `constant`)."""
        remaining = self.work.remaining()
        return self.work.expand({v: int(self.work.alive[v][pick]) for v, pick in zip(remaining, choice, strict=False)})

    def restrict(self, hint: Sequence[int]) -> tuple[int, ...]:
        """A hint for the original, as one for the reduced problem; -1 where its strategy was removed."""
        kept: list[int] = []
        for v in self.work.remaining():
            place = np.flatnonzero(self.work.alive[v] == hint[v])
            kept.append(int(place[0]) if len(place) else -1)
        return tuple(kept) + (0,) * len(self.work.ballast)


def reduce_problem(problem: Problem, *, deadline: float = float("inf"), rules: Sequence[Rule] = RULES) -> Reduction:
    """Reduce a problem; stops early (with what was reached) when `time.perf_counter()` passes `deadline`."""
    return reduce_further(Workspace(problem), deadline=deadline, rules=rules)


def reduce_further(work: Workspace, *, deadline: float = float("inf"), rules: Sequence[Rule] = RULES) -> Reduction:
    """Reduce what is in a workspace, after something in it changed."""
    relax_memory(work)
    while work.touched and not work.impossible and time.perf_counter() < deadline:
        _settle(work, rules, deadline)
        if not work.impossible:
            relax_memory(work)
    return Reduction(work.constant, work.impossible, work)


def _settle(work: Workspace, rules: Sequence[Rule], deadline: float) -> None:
    while work.touched and not work.impossible and time.perf_counter() < deadline:
        v = next(iter(work.touched))
        del work.touched[v]
        for rule in rules:
            if v not in work.alive or work.impossible:
                break
            rule(work, v)
