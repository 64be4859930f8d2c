"""A merged problem as flat arrays, for compiled loops.

Choices of all nodes lie in one row: node v has the places offset[v] to offset[v + 1]. Edge e has a matrix of
(choices of a[e]) rows by (choices of b[e]) columns at start[e] in `tables`. Node v's edges are around[near[v] :
near[v + 1]]. Memory: node v's uses are use[v] to use[v + 1]; use k holds usages[place[k] + i] in grid times first[k] to
last[k] - 1 if v takes i.

In: `Merged`, `Grid`, `Use`s. Out: a `FlatModel`; `choice_of` leads back to positions in the workspace.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.core.problem import INFINITE_COST
from planner.solvers.large.compiled import compiled
from planner.solvers.large.merge import Member, Merged
from planner.solvers.large.usage import Grid, Use

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Graph(NamedTuple):
    """Nodes and edges; see the module. Costs are floats: exact where totals stay below 2^53."""

    offset: Ints
    costs: Floats
    a: Ints
    b: Ints
    start: Ints
    tables: Floats
    near: Ints
    around: Ints


class Memory(NamedTuple):
    """Uses of memory, and the room there is for them at each grid time; see the module."""

    use: Ints
    first: Ints
    last: Ints
    place: Ints
    usages: Ints
    room: Ints


@dataclass(frozen=True)
class FlatModel:
    """Graph and memory of the merged nodes `names`. Named tuples, as compiled loops take those as they are."""

    graph: Graph
    memory: Memory
    names: tuple[int, ...]

    @property
    def nodes(self) -> int:
        return len(self.names)

    @property
    def room(self) -> Ints:
        return self.memory.room

    def sizes(self) -> Ints:
        """Choices per node."""
        return np.diff(self.graph.offset)

    def cost(self, choice: Ints) -> float:
        """Total cost of a choice; at least `INFINITE_COST` where it is forbidden."""
        graph = self.graph
        pairs = graph.start + choice[graph.a] * self.sizes()[graph.b] + choice[graph.b]
        return float(graph.costs[graph.offset[:-1] + choice].sum() + graph.tables[pairs].sum())

    def usage(self, choice: Ints) -> Ints:
        """Memory of the choice at each grid time."""
        return _usage(self.memory, choice)

    def fits(self, choice: Ints) -> bool:
        """Whether memory stays within the limit."""
        return bool((self.usage(choice) <= self.room).all())


def flatten(merged: Merged, grid: Grid, uses: dict[int, Use]) -> FlatModel:
    """The arrays of a merged graph."""
    names = tuple(merged.labels)
    index = {v: n for n, v in enumerate(names)}
    edges = [(v, u) for v in names for u in merged.near[v] if index[v] < index[u]]
    tables = [merged.near[v][u].ravel() for v, u in edges]
    a = np.array([index[v] for v, _ in edges], dtype=np.int64)
    b = np.array([index[u] for _, u in edges], dtype=np.int64)
    ends = np.concatenate([a, b])
    order = np.argsort(ends, kind="stable")
    found = [uses.get(v) for v in names]
    present = [use for use in found if use is not None]
    flat = [use.usages.ravel() for use in present]
    strides = [use.usages.shape[1] for use in present for _ in use.first]
    graph = Graph(
        offset=_offsets([len(merged.labels[v]) for v in names]),
        costs=_floats([merged.costs[v] for v in names]),
        a=a,
        b=b,
        start=_offsets([len(t) for t in tables])[:-1],
        tables=_floats(tables),
        near=np.concatenate([[0], np.cumsum(np.bincount(ends, minlength=len(names)))]),
        around=order % max(1, len(edges)),
    )
    memory = Memory(
        use=_offsets([0 if use is None else len(use.first) for use in found]),
        first=_joined([use.first for use in present]),
        last=_joined([use.last for use in present]),
        place=_offsets(strides)[:-1],
        usages=_joined(flat),
        room=grid.room,
    )
    return FlatModel(graph, memory, names)


def choice_of(members: Sequence[Member], model: FlatModel, choice: Ints) -> dict[int, int]:
    """Position per node of the workspace, `members` being those of the merged graph."""
    picked = dict(zip(model.names, choice.tolist(), strict=True))
    return {m.node: int(m.picks[picked[m.of]]) for m in members}


@compiled
def _usage(memory: Memory, choice: Ints) -> Ints:
    change = np.zeros(len(memory.room) + 1, dtype=np.int64)
    for v in range(len(choice)):
        for k in range(memory.use[v], memory.use[v + 1]):
            used = memory.usages[memory.place[k] + choice[v]]
            change[memory.first[k]] += used
            change[memory.last[k]] -= used
    return np.cumsum(change)[:-1]


def _offsets(counts: list[int]) -> Ints:
    return np.concatenate([[0], np.cumsum(np.array(counts, dtype=np.int64))]).astype(np.int64)


def _joined(parts: list[Ints]) -> Ints:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])


def _floats(parts: list[Ints]) -> Floats:
    return np.minimum(_joined(parts), INFINITE_COST).astype(np.float64)
