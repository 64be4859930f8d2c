"""The cheapest cut of a network between two of its nodes: Dinic's algorithm (1970).

Flow goes along shortest ways until none is left; by then every way to the sink is cut where edges are full. Networks
are small here, and a library for all graphs takes longer to import than they do. In: edges with whole capacities. Out:
the nodes on the source's side.
"""

from collections import deque
from collections.abc import Hashable, Iterable
from typing import Any, TypeVar

N = TypeVar("N", bound=Hashable)


def source_side(edges: Iterable[tuple[N, N, int | None]], source: N, sink: N) -> frozenset[N]:
    """The largest set of nodes with the source, and without the sink, that the cheapest edges leave.

    Args:
      edges: from, to, capacity; None for one that can't be cut. Not all ways to the sink may be of such edges.
    """
    whole = [*edges]
    network = _Network(1 + sum(capacity for _, _, capacity in whole if capacity is not None))
    for a, b, capacity in whole:
        network.add(network.number(a), network.number(b), capacity)
    begin, end = network.number(source), network.number(sink)
    while (level := network.levels(end))[begin] >= 0:
        network.push(begin, end, level)
    return frozenset(node for node, n in network.numbers.items() if level[n] < 0)


class _Network:
    """Edges and their opposites side by side, so that `edge ^ 1` is the other of each."""

    def __init__(self, most: int) -> None:
        """`most`: more than all that can flow."""
        self.numbers: dict[Any, int] = {}
        self._most = most
        self._to: list[int] = []
        self._room: list[int] = []
        self._out: list[list[int]] = []

    def number(self, node: Hashable) -> int:
        """Of a node, a new one if it was not seen before."""
        found = self.numbers.setdefault(node, len(self._out))
        if found == len(self._out):
            self._out.append([])
        return found

    def add(self, a: int, b: int, capacity: int | None) -> None:
        """An edge, and its opposite, which has no room yet."""
        for start, end, room in ((a, b, self._most if capacity is None else capacity), (b, a, 0)):
            self._out[start].append(len(self._to))
            self._to.append(end)
            self._room.append(room)

    def levels(self, end: int) -> list[int]:
        """How many edges with room lead from each node to the end at least; -1 where none do."""
        found = [-1] * len(self._out)
        found[end] = 0
        queue = deque([end])
        while queue:
            b = queue.popleft()
            for edge in self._out[b]:
                a = self._to[edge]
                if found[a] < 0 and self._room[edge ^ 1] > 0:
                    found[a] = found[b] + 1
                    queue.append(a)
        return found

    def push(self, begin: int, end: int, level: list[int]) -> None:
        """Fill all shortest ways."""
        tried, way = [0] * len(self._out), list[int]()
        at = begin
        while True:
            if at == end:
                flow = min(self._room[edge] for edge in way)
                for edge in way:
                    self._room[edge] -= flow
                    self._room[edge ^ 1] += flow
                way, at = [], begin
                continue
            out = self._out[at]
            while tried[at] < len(out) and not (self._room[out[tried[at]]] > 0
                                                and level[self._to[out[tried[at]]]] == level[at] - 1):
                tried[at] += 1
            if tried[at] < len(out):
                way.append(out[tried[at]])
                at = self._to[way[-1]]
            elif not way:
                return
            else:
                at = self._to[way.pop() ^ 1]
                tried[at] += 1
