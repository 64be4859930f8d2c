"""What a solver is: a function from a `Problem` and `SolveOptions` to a `Solution`, filed here under its name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from planner.core.problem import Problem, Solution
from planner.registry import Table


@dataclass(frozen=True, slots=True)
class Progress:
    """A better solution was found: its cost, the bound proven so far, and the seconds since the solver began."""

    cost: int
    bound: int
    time_s: float


@dataclass(frozen=True, slots=True)
class SolveOptions:
    """How to solve.

    Attributes:
      timeout_s: wall time allowed; the best so far is returned then.
      threads: worker threads.
      on_progress: called with every better solution, from the thread that searches.
      hint: strategy per node to start from (-1: no opinion); it need not be feasible.
      seed: of all random choices.
      raises: Ctrl-C is passed on as `KeyboardInterrupt`; without it, the best so far is returned, if there is one.
    """

    timeout_s: float
    threads: int = 1
    on_progress: Callable[[Progress], None] | None = None
    hint: Sequence[int] | None = None
    seed: int = 0
    raises: bool = False


Solver = Callable[[Problem, SolveOptions], Solution]

SOLVERS: Table[Solver] = Table("planner.solvers", "solver")
