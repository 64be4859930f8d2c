"""The cheapest cut of a network between two of its nodes, by networkx.

In: edges with whole capacities. Out: the nodes on the source's side.
"""

from collections.abc import Hashable, Iterable
from typing import Any, TypeVar

import networkx as nx

N = TypeVar("N", bound=Hashable)


def source_side(edges: Iterable[tuple[N, N, int | None]], source: N, sink: N) -> frozenset[N]:
    """The largest set of nodes with the source, and without the sink, that the cheapest edges leave.

    Args:
      edges: from, to, capacity; None for one that can't be cut. Not all ways to the sink may be of such edges.
    """
    network: nx.DiGraph[N] = nx.DiGraph()
    network.add_nodes_from((source, sink))
    for a, b, capacity in edges:
        network.add_edge(a, b, **({} if capacity is None else {"capacity": capacity}))
    cut: Any = getattr(nx, "minimum_cut")  # noqa: B009  its dispatcher has no types
    _, (side, _) = cut(network, source, sink)
    return frozenset(side)
