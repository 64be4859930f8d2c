"""The intra-operator problem: pick one strategy per node, minimise node + edge costs under a memory limit at all times.

Exactly the form of the IOPDDL contest (ASPLOS/EuroSys 2025), which came out of XLA's production auto-sharding, so that
contest instances run through our solvers and our problems through others'. `evaluate` referees every solver and shares
no code with them.
"""

from dataclasses import dataclass
from enum import StrEnum

INFINITE_COST = 10**18
"""A cost at or above this marks a forbidden choice (the contest's convention)."""


@dataclass(frozen=True, slots=True)
class Node:
    """A choice. `interval` [start, end) is when its memory is in use; `costs[i]`, `usages[i]` belong to strategy i."""

    interval: tuple[int, int]
    costs: tuple[int, ...]
    usages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Edge:
    """A cost of two choices together: `costs[i * len(b.costs) + j]` for strategy i of node `a` and j of node `b`."""

    a: int
    b: int
    costs: tuple[int, ...]


@dataclass(frozen=True)
class Problem:
    """Nodes, edges and the memory limit (None: no limit). Costs and usages are integers in units of the maker's
    choice."""

    name: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    usage_limit: int | None = None


class Status(StrEnum):
    """What a solver knows about its answer."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Solution:
    """A solver's answer.

    Attributes:
      choice: strategy index per node; None where none was found.
      cost: its cost as the solver sees it (the referee is `evaluate`).
      bound: a proven lower bound on the cost of any solution.
      status: optimal, feasible (gap > 0), infeasible (proven) or unknown (ran out of time).
      solver: which solver, and what it did in a few words.
      time_s: wall time spent.
    """

    choice: tuple[int, ...] | None
    cost: int | None
    bound: int
    status: Status
    solver: str
    time_s: float

    @property
    def gap(self) -> float | None:
        """(cost - bound) / cost, or None without a solution."""
        if self.cost is None:
            return None
        return 0.0 if self.cost <= self.bound else (self.cost - self.bound) / max(abs(self.cost), 1)


@dataclass(frozen=True)
class Evaluation:
    """The referee's word on a choice: cost, peak usage, and the first time point over the limit (None if feasible)."""

    cost: int
    peak_usage: int
    violated_at: int | None

    @property
    def feasible(self) -> bool:
        return self.violated_at is None and self.cost < INFINITE_COST


def evaluate(problem: Problem, choice: tuple[int, ...]) -> Evaluation:
    """Price a choice: total cost, peak memory over time, first violated time point.

    Raises:
      ValueError: if the choice has the wrong length or an index out of range.
    """
    if len(choice) != len(problem.nodes):
        raise ValueError(f"{len(choice)} choices for {len(problem.nodes)} nodes")
    cost = 0
    change: dict[int, int] = {}
    for n, (node, pick) in enumerate(zip(problem.nodes, choice, strict=True)):
        if not 0 <= pick < len(node.costs):
            raise ValueError(f"node {n}: strategy {pick} of {len(node.costs)}")
        cost += node.costs[pick]
        start, end = node.interval
        if start < end:
            change[start] = change.get(start, 0) + node.usages[pick]
            change[end] = change.get(end, 0) - node.usages[pick]
    for edge in problem.edges:
        cost += edge.costs[choice[edge.a] * len(problem.nodes[edge.b].costs) + choice[edge.b]]
    usage, peak, violated = 0, 0, None
    for t in sorted(change):
        usage += change[t]
        peak = max(peak, usage)
        if violated is None and problem.usage_limit is not None and usage > problem.usage_limit:
            violated = t
    return Evaluation(cost, peak, violated)
