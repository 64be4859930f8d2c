"""Cheapest cuts against all cuts there are."""

from itertools import product
from typing import cast

import numpy as np
import pytest

from planner.core.min_cut import source_side

Edges = list[tuple[int, int, int | None]]


def cheapest(edges: Edges, nodes: int) -> frozenset[int]:
    """The largest of the cheapest sets with node 0 and without node 1, of all sets."""
    sides = [frozenset(n for n, inside in enumerate((True, False, *rest)) if inside)
             for rest in product((False, True), repeat=nodes - 2)]
    cut = {side: [c for a, b, c in edges if a in side and b not in side] for side in sides}
    costs = {side: sum(cast(list[int], left)) for side, left in cut.items() if None not in left}
    return frozenset().union(*(side for side, cost in costs.items() if cost == min(costs.values())))


@pytest.mark.parametrize("seed", range(40))
def test_no_cut_is_cheaper(seed: int) -> None:
    rng = np.random.default_rng(seed)
    nodes = int(rng.integers(2, 9))
    pairs = {(int(a), int(b)) for a, b in rng.integers(0, nodes, (3 * nodes, 2)) if a != b}
    edges: Edges = [
        (a, b, None if rng.random() < 0.2 and (a, b) != (0, 1) and b != 1 else int(rng.integers(0, 9) * 10**18))
        for a, b in sorted(pairs | {(0, 1)})]
    reached = {n for a, b, _ in edges for n in (a, b)}
    assert source_side(edges, 0, 1) == cheapest(edges, nodes) & reached


def test_by_hand() -> None:
    # Both ways from a to d pass an edge of 2; of the two cheapest cuts, the one nearest to d is taken.
    edges = [("a", "b", 2), ("b", "d", 2), ("a", "c", 5), ("c", "d", 2), ("b", "c", None)]
    assert source_side(edges, "a", "d") == {"a", "b", "c"}
    assert source_side([("a", "b", 0), ("b", "d", 1)], "a", "d") == {"a"}
