"""Edges between the same two nodes become one matrix.

Proof: both edges add a cost that depends on the same two choices; the sum of the two matrices adds the same total for
each pair. A sum that reaches `INFINITE_COST` is cut back to it: costs are non-negative, so the total is forbidden
anyway.
"""

import numpy as np
from numpy.typing import NDArray

from planner.core.problem import INFINITE_COST, Problem

Ints = NDArray[np.int64]


def add(a: Ints, b: Ints) -> Ints:
    """a + b, at most `INFINITE_COST`. Both are at most that, so 64 bits hold the sum."""
    return np.minimum(a + b, INFINITE_COST)


def saturated(costs: tuple[int, ...]) -> Ints:
    """Costs as an array, each at most `INFINITE_COST` (Python integers may be larger than 64 bits)."""
    if max(costs, default=0) > INFINITE_COST:
        costs = tuple(min(c, INFINITE_COST) for c in costs)
    return np.array(costs, dtype=np.int64)


def merged_edges(problem: Problem) -> dict[tuple[int, int], Ints]:
    """(a, b) with a < b -> cost matrix [strategies of a, strategies of b], parallel edges added up."""
    merged: dict[tuple[int, int], Ints] = {}
    for edge in problem.edges:
        table = saturated(edge.costs).reshape(len(problem.nodes[edge.a].costs), len(problem.nodes[edge.b].costs))
        key, table = ((edge.a, edge.b), table) if edge.a < edge.b else ((edge.b, edge.a), table.T)
        merged[key] = add(merged[key], table) if key in merged else table
    return merged
