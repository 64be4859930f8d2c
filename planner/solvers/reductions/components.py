"""A problem falls into parts that can be solved one by one.

Proof: between nodes of different parts there is no edge, so the total cost is the sum of the parts' costs. No two of
them are live together at a time where memory can bind (a span that can't bind was forgotten by `memory_slack`), so at
each time the limit concerns the nodes of one part, and the ballast there. A choice is allowed exactly if each part's
is; the least total is the sum of the least costs.
"""

from itertools import pairwise

from planner.solvers.workspace import Workspace


def components(work: Workspace) -> list[tuple[int, ...]]:
    """The remaining nodes, as parts; those with the fewest nodes first."""
    above = {v: v for v in work.alive}

    def top(v: int) -> int:
        while above[v] != v:
            above[v] = v = above[above[v]]
        return v

    pairs = [(v, u) for v in work.alive for u in work.near[v] if v < u]
    for a, b in pairs + _live_together(work):
        above[top(a)] = top(b)
    parts: dict[int, list[int]] = {}
    for v in work.alive:
        parts.setdefault(top(v), []).append(v)
    return sorted((tuple(part) for part in parts.values()), key=lambda part: (len(part), part))


def _live_together(work: Workspace) -> list[tuple[int, int]]:
    """Pairs that link all nodes whose spans overlap, one way or another."""
    spans = sorted((span, v) for v, span in work.spans.items() if span is not None)
    linked: list[tuple[int, int]] = []
    latest = spans[0] if spans else ((0, 0), 0)
    for one, two in pairwise(spans):
        latest = max(latest, one, key=lambda item: item[0][1])
        if two[0][0] < latest[0][1]:
            linked.append((latest[1], two[1]))
    return linked
