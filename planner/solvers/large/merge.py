"""Nodes whose choice is determined by a neighbour's are merged into it.

If every choice i of node u leaves exactly one allowed choice f(i) of its neighbour v, then v's choice is f(u's choice)
in every solution: v's costs, edges and memory can be charged to u through f, and v is gone. Unlike the reductions this
keeps memory in full: a merged node uses memory over as many intervals as it has members. In graphs of tensor programs
most edges are of this kind (a layout that is passed on), and what is left is a tenth or a hundredth.

In: a `Workspace`. Out: a `Merged`; `members` leads from a choice of the merged nodes back to one of all nodes.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from planner.core.problem import INFINITE_COST
from planner.solvers.reductions.parallel_edges import add
from planner.solvers.workspace import Workspace

Ints = NDArray[np.int64]

GROWTH = 2.0
"""A merge may multiply the entries of the edges it moves by this, no more [one value tried; real graphs merge without
growth]."""


@dataclass(frozen=True, slots=True)
class Member:
    """Node `node`, part of the merged node `of`; `picks[i]` is its choice (position in the workspace) if that takes
    i."""

    node: int
    of: int
    picks: Ints


@dataclass
class Merged:
    """A graph of merged nodes, changed in place while merging.

    Attributes:
      labels: merged node -> its choices, as positions in the workspace's `alive` of the node it is named after.
      costs: merged node -> cost per choice.
      near: node -> {neighbour: cost matrix [own choices, neighbour's]}, in both directions.
      merges: (node, what it was merged into, its position per position of the other, -1 where that is forbidden).
    """

    labels: dict[int, Ints]
    costs: dict[int, Ints]
    near: dict[int, dict[int, Ints]]
    merges: list[tuple[int, int, Ints]] = field(default_factory=list[tuple[int, int, Ints]])

    def members(self) -> list[Member]:
        """Every node as a function of the merged node it belongs to, merged nodes themselves included."""
        found = {v: Member(v, v, labels) for v, labels in self.labels.items()}
        for v, into, picks in reversed(self.merges):
            head = found[into]
            found[v] = Member(v, head.of, picks[head.picks])
        return list(found.values())


def merge(work: Workspace, *, deadline: float = float("inf")) -> Merged:
    """Merge until no node is determined by a neighbour, or `time.perf_counter()` passes `deadline`. The workspace is
    left as it is."""
    merged = Merged(
        {v: np.arange(len(alive)) for v, alive in work.alive.items()},
        dict(work.costs),
        {v: dict(work.near[v]) for v in work.alive},
    )
    merge_edges(merged, ((a, b) for a in merged.near for b in merged.near[a] if a < b), deadline)
    return merged


def merge_edges(merged: Merged, edges: Iterable[tuple[int, int]], deadline: float = float("inf")) -> None:
    """Merge along these edges and all that change on the way."""
    todo = dict.fromkeys(edges)
    while todo and time.perf_counter() < deadline:
        a, b = next(iter(todo))
        del todo[a, b]
        if b not in merged.near.get(a, ()):
            continue
        allowed = merged.near[a][b] < INFINITE_COST
        ways = [(v, u) for v, u, axis in ((a, b, 0), (b, a, 1)) if (allowed.sum(axis=axis) == 1).all()]
        ways = [(v, u) for v, u in ways if not _grows(merged, v, u)]
        if ways:
            v, u = min(ways, key=lambda way: len(merged.near[way[0]]))
            for pair in _absorb(merged, v, u):
                todo[pair] = None


def _grows(merged: Merged, v: int, u: int) -> bool:
    """Whether moving the edges of v to u would make them too large."""
    more, size = len(merged.labels[u]), len(merged.labels[v])
    if more <= size:
        return False
    others = [len(merged.labels[w]) for w in merged.near[v] if w != u]
    new = more * sum(len(merged.labels[w]) for w in merged.near[v] if w != u and w not in merged.near[u])
    return new > GROWTH * size * (more + sum(others))


def _absorb(merged: Merged, v: int, u: int) -> list[tuple[int, int]]:
    """Merge v into u, which determines it; the edges that changed."""
    table = merged.near[v].pop(u)
    del merged.near[u][v]
    picks = table.argmin(axis=0)
    along = table[picks, np.arange(len(picks))]
    merged.costs[u] = add(merged.costs[u], add(merged.costs[v][picks], along))
    changed: list[tuple[int, int]] = []
    for w, other in merged.near[v].items():
        moved = other[picks]
        if w in merged.near[u]:
            moved = add(moved, merged.near[u][w])
        merged.near[u][w], merged.near[w][u] = moved, moved.T
        del merged.near[w][v]
        changed.append((u, w))
    full = np.full(int(merged.labels[u].max()) + 1, -1, dtype=np.int64)
    full[merged.labels[u]] = merged.labels[v][picks]
    merged.merges.append((v, u, full))
    del merged.near[v], merged.labels[v], merged.costs[v]
    return changed


def restrict(merged: Merged, v: int, keep: NDArray[np.bool_]) -> None:
    """Remove the choices of `v` where `keep` is False."""
    merged.labels[v], merged.costs[v] = merged.labels[v][keep], merged.costs[v][keep]
    for u, table in merged.near[v].items():
        merged.near[v][u] = table[keep]
        merged.near[u][v] = merged.near[v][u].T
