"""In which order to eliminate variables: greedily, the one that leaves the smallest table next.

In: domain sizes and the pairs (or cliques) of variables that share a cost. Out: (variable, its neighbours when it
goes),
whose domains multiply to the size of the table it leaves. Min-weight is the usual rule where domains differ in size
(Kjaerulff, 1990); ties go to the smaller work (that table times the variable's own domain), then to the smaller index.
"""

import heapq
from collections.abc import Iterable, Sequence

Order = list[tuple[int, tuple[int, ...]]]


def elimination_order(
    domains: Sequence[int],
    scopes: Iterable[Sequence[int]],
    keep: frozenset[int],
    max_table: int | None = None,
) -> Order:
    """Order every variable but `keep`; with `max_table`, stop after the first table with more entries than that.

    Returns:
      (variable, neighbours) in order; neighbours are sorted by domain size, largest last, then by index.
    """
    near: list[set[int]] = [set() for _ in domains]
    for scope in scopes:
        for a in scope:
            near[a].update(scope)
    for v, group in enumerate(near):
        group.discard(v)
    heap = [(*_weight(v, near, domains), v) for v in range(len(domains)) if v not in keep]
    heapq.heapify(heap)
    done: set[int] = set()
    order: Order = []
    while heap:
        size, work, v = heapq.heappop(heap)
        if v in done or (size, work) != _weight(v, near, domains):
            continue
        done.add(v)
        neighbours = sorted(near[v], key=lambda u: (domains[u], u))
        order.append((v, tuple(neighbours)))
        if max_table is not None and size > max_table:
            break
        for u in neighbours:
            near[u].update(neighbours)
            near[u] -= {u, v}
            if u not in keep:
                heapq.heappush(heap, (*_weight(u, near, domains), u))
    return order


def _weight(v: int, near: Sequence[set[int]], domains: Sequence[int]) -> tuple[int, int]:
    size = 1
    for u in near[v]:
        size *= domains[u]
    return size, size * domains[v]
