"""Cheapest cuts against networkx, which has an algorithm of its own."""

from typing import Any

import networkx as nx
import numpy as np
import pytest

from planner.core.min_cut import source_side


@pytest.mark.parametrize("seed", range(40))
def test_as_another_library_cuts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    nodes = int(rng.integers(2, 12))
    pairs = {(int(a), int(b)) for a, b in rng.integers(0, nodes, (3 * nodes, 2)) if a != b}
    edges: list[tuple[int, int, int | None]] = [
        (a, b, None if rng.random() < 0.2 and (a, b) != (0, 1) and b != 1 else int(rng.integers(0, 9) * 10**18))
        for a, b in sorted(pairs | {(0, 1)})]
    network: Any = nx.DiGraph()
    for a, b, capacity in edges:
        network.add_edge(a, b, **({} if capacity is None else {"capacity": capacity}))
    cut: Any = getattr(nx, "minimum_cut")  # noqa: B009  its dispatcher has no types
    assert source_side(edges, 0, 1) == frozenset(cut(network, 0, 1)[1][0])


def test_by_hand() -> None:
    # Both ways from a to d pass an edge of 2; of the two cheapest cuts, the one nearest to d is taken.
    edges = [("a", "b", 2), ("b", "d", 2), ("a", "c", 5), ("c", "d", 2), ("b", "c", None)]
    assert source_side(edges, "a", "d") == {"a", "b", "c"}
    assert source_side([("a", "b", 0), ("b", "d", 1)], "a", "d") == {"a"}
