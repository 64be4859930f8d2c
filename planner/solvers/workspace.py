"""A problem as arrays that reductions change in place, with a log from which any solution is carried back.

Strategies are removed by narrowing `alive[v]` (indices into the original node's strategies); nodes are removed by
fixing or folding, which logs how to choose them once their neighbours are chosen. Usage that no choice changes any more
moves to `ballast`, cost to `constant`. All costs are non-negative int64, cut at `INFINITE_COST`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.core.problem import INFINITE_COST, Edge, Node, Problem
from planner.solvers.reductions.parallel_edges import add, merged_edges, saturated

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Fold:
    """A removed node: its best strategy (`best`, a position in `alive`) for each choice of its neighbours."""

    node: int
    alive: Ints
    neighbours: tuple[int, ...]
    neighbours_alive: tuple[Ints, ...]
    best: NDArray[np.int64 | np.uint16]


class Workspace:
    """See the module.

    Attributes:
      alive: node -> remaining strategies, original indices in ascending order. Removed nodes are absent.
      costs, usages: node -> numbers of the remaining strategies.
      spans: node -> when its memory is in use, or None where its usage doesn't matter.
      near: node -> {neighbour: cost matrix [own strategies, neighbour's]}; both directions are kept in step.
      touched: nodes whose surroundings changed since they were last looked at.
      impossible: why the problem has no solution, once that is proven.
    """

    def __init__(self, problem: Problem) -> None:
        self.limit = problem.usage_limit
        self.name = problem.name
        self.alive = {v: np.arange(len(node.costs)) for v, node in enumerate(problem.nodes)}
        self.costs = {v: saturated(node.costs) for v, node in enumerate(problem.nodes)}
        self.usages = {v: np.array(node.usages, dtype=np.int64) for v, node in enumerate(problem.nodes)}
        self.spans: dict[int, tuple[int, int] | None] = {
            v: node.interval if self.limit is not None and node.interval[0] < node.interval[1] else None
            for v, node in enumerate(problem.nodes)
        }
        self.near: list[dict[int, Ints]] = [{} for _ in problem.nodes]
        for (a, b), table in merged_edges(problem).items():
            self.near[a][b], self.near[b][a] = table, table.T
        self.ballast: list[tuple[tuple[int, int], int]] = []
        self.constant = 0
        self.folds: list[Fold] = []
        self.touched = dict.fromkeys(self.alive)
        self.impossible = ""

    def touch_all(self) -> None:
        """Have every node looked at again, by other rules."""
        self.touched = dict.fromkeys(self.alive)

    def is_steady(self, v: int) -> bool:
        """Whether the choice of `v` can't change memory in use."""
        return self.spans[v] is None or bool((self.usages[v] == self.usages[v][0]).all())

    def restrict(self, v: int, keep: NDArray[np.bool_]) -> None:
        """Remove the strategies of `v` where `keep` is False."""
        self.alive[v], self.costs[v], self.usages[v] = self.alive[v][keep], self.costs[v][keep], self.usages[v][keep]
        if not len(self.alive[v]):
            self.impossible = self.impossible or f"node {v} has no allowed strategy"
        for u, table in self.near[v].items():
            self.near[v][u] = table[keep]
            self.near[u][v] = self.near[v][u].T
            self.touched[u] = None
        self.touched[v] = None

    def add_cost(self, v: int, costs: Ints) -> None:
        """Add to the costs of the strategies of `v`."""
        self.costs[v] = add(self.costs[v], costs)
        self.touched[v] = None

    def add_edge(self, a: int, b: int, costs: Ints) -> None:
        """Add to the edge between `a` and `b`, making it if needed."""
        table = add(self.near[a][b], costs) if b in self.near[a] else costs
        self.near[a][b], self.near[b][a] = table, table.T
        self.touched[a] = self.touched[b] = None

    def forbid(self, a: int, b: int, pairs: NDArray[np.bool_]) -> None:
        """Forbid pairs of strategies of two neighbours."""
        if (self.near[a][b][pairs] < INFINITE_COST).any():
            table = np.where(pairs, INFINITE_COST, self.near[a][b])
            self.near[a][b], self.near[b][a] = table, table.T
            self.touched[a] = self.touched[b] = None

    def drop_edge(self, a: int, b: int) -> None:
        """Remove an edge whose costs have been accounted for elsewhere."""
        del self.near[a][b], self.near[b][a]
        self.touched[a] = self.touched[b] = None

    def remove(self, v: int, best: NDArray[np.int64 | np.uint16]) -> None:
        """Remove a steady node whose cost is accounted for; `best` as in `Fold`, neighbours in the order of `near`."""
        neighbours = tuple(self.near[v])
        self.folds.append(Fold(v, self.alive[v], neighbours, tuple(self.alive[u] for u in neighbours), best))
        span = self.spans[v]
        if span is not None and self.usages[v][0]:
            self.ballast.append((span, int(self.usages[v][0])))
        for u in neighbours:
            self.drop_edge(v, u)
        del self.alive[v], self.costs[v], self.usages[v], self.spans[v]
        self.touched.pop(v, None)

    def expand(self, choice: dict[int, int]) -> tuple[int, ...]:
        """A choice per original node, given original strategy indices of the nodes that remain."""
        full = dict(choice)
        for fold in reversed(self.folds):
            where = tuple(
                int(np.searchsorted(alive, full[u]))
                for u, alive in zip(fold.neighbours, fold.neighbours_alive, strict=True)
            )
            full[fold.node] = int(fold.alive[fold.best[where]])
        return tuple(full[v] for v in range(len(full)))

    def remaining(self) -> tuple[int, ...]:
        """The nodes not removed, in order."""
        return tuple(self.alive)

    def as_problem(self, part: Sequence[int] | None = None) -> Problem:
        """What remains, or a part that no edge leaves, as a problem: its nodes in order, then a single-strategy node
        per piece of ballast."""
        nodes = self.remaining() if part is None else part
        place = {v: n for n, v in enumerate(nodes)}
        made = [Node(self.spans[v] or (0, 0), _integers(self.costs[v]), _integers(self.usages[v])) for v in nodes]
        made += [Node(span, (0,), (usage,)) for span, usage in self.ballast]
        edges = tuple(
            Edge(place[a], place[b], _integers(table.ravel()))
            for a in nodes
            for b, table in self.near[a].items()
            if a < b
        )
        return Problem(self.name, tuple(made), edges, self.limit)


def _integers(numbers: Sequence[int] | Ints) -> tuple[int, ...]:
    return tuple(np.minimum(numbers, INFINITE_COST).tolist())
