"""Try everything: the oracle for small problems. Exact, or refuses where there are too many combinations.

It shares no cost code with the other solvers: it prices blocks of whole assignments at once with NumPy.
"""

import time

import numpy as np
from numpy.typing import NDArray

from planner.core.problem import INFINITE_COST, Problem, Solution, Status
from planner.errors import ProblemError
from planner.solvers.table import SOLVERS, SolveOptions

MAX_COMBINATIONS = 4_000_000
"""About four seconds for ten nodes [measured on an EPYC core]."""

BLOCK = 1 << 14

Ints = NDArray[np.int64]


@SOLVERS.register("exhaustive")
def exhaustive(problem: Problem, options: SolveOptions) -> Solution:
    """The cheapest allowed assignment, the first one in lexicographic order among equals; ignores the time limit.

    Raises:
      ProblemError: more than `MAX_COMBINATIONS` assignments.
    """
    began = time.perf_counter()
    sizes = [len(node.costs) for node in problem.nodes]
    total = 1
    for size in sizes:
        total *= size
    if total > MAX_COMBINATIONS:
        raise ProblemError(
            f"{total:.3g} combinations are too many to try (limit {MAX_COMBINATIONS})", "use solver='auto' or 'cpsat'"
        )
    best, best_cost = -1, INFINITE_COST
    for start in range(0, total, BLOCK):
        choices = _digits(np.arange(start, min(start + BLOCK, total)), sizes)
        costs = np.where(_over_limit(problem, choices), INFINITE_COST, _prices(problem, choices))
        place = int(costs.argmin())
        if costs[place] < best_cost:
            best, best_cost = start + place, int(costs[place])
    spent = time.perf_counter() - began
    if best < 0:
        return Solution(None, None, INFINITE_COST, Status.INFEASIBLE, f"exhaustive, {total} combinations", spent)
    choice = tuple(int(column[0]) for column in _digits(np.array([best]), sizes))
    return Solution(choice, best_cost, best_cost, Status.OPTIMAL, f"exhaustive, {total} combinations", spent)


def _digits(numbers: Ints, sizes: list[int]) -> list[Ints]:
    """Mixed-radix digits, most significant first: per node, its strategy in each combination."""
    digits: list[Ints] = []
    for size in reversed(sizes):
        numbers, digit = np.divmod(numbers, size)
        digits.append(digit)
    return digits[::-1]


def _prices(problem: Problem, choices: list[Ints]) -> Ints | int:
    total: Ints | int = 0
    for node, pick in zip(problem.nodes, choices, strict=True):
        total = np.minimum(total + _table(node.costs)[pick], INFINITE_COST)
    for edge in problem.edges:
        place = choices[edge.a] * len(problem.nodes[edge.b].costs) + choices[edge.b]
        total = np.minimum(total + _table(edge.costs)[place], INFINITE_COST)
    return total


def _over_limit(problem: Problem, choices: list[Ints]) -> NDArray[np.bool_]:
    rows = len(choices[0]) if choices else 1
    over = np.zeros(rows, dtype=np.bool_)
    if problem.usage_limit is None:
        return over
    for t in {node.interval[0] for node in problem.nodes}:  # usage only rises where an interval starts
        usage = np.zeros(rows, dtype=np.int64)
        for node, pick in zip(problem.nodes, choices, strict=True):
            if node.interval[0] <= t < node.interval[1]:
                usage += np.array(node.usages)[pick]
        over |= usage > problem.usage_limit
    return over


def _table(costs: tuple[int, ...]) -> Ints:
    return np.array([min(c, INFINITE_COST) for c in costs], dtype=np.int64)
