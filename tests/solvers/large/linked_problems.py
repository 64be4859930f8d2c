"""Random small problems in which some nodes are determined by others, as in graphs of tensor programs."""

import numpy as np
from hypothesis import strategies as st

from planner.core.problem import INFINITE_COST, Edge, Node, Problem
from planner.solvers.large.flat import FlatModel, flatten
from planner.solvers.large.merge import Merged, merge
from planner.solvers.large.usage import memory_of
from planner.solvers.workspace import Workspace


@st.composite
def linked_problems(draw: st.DrawFn, *, max_nodes: int = 6) -> Problem:
    """Up to 6 nodes of up to 3 strategies; an edge is a function of one end's strategy, or free with forbidden
    pairs."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=max_nodes))
    nodes = []
    for size in sizes:
        start = draw(st.integers(0, 5))
        costs, usages = (draw(st.lists(st.integers(0, 6), min_size=size, max_size=size)) for _ in range(2))
        nodes.append(Node((start, start + draw(st.integers(0, 4))), tuple(costs), tuple(usages)))
    edges = []
    for _ in range(draw(st.integers(0, 8)) if len(sizes) > 1 else 0):
        a, b = draw(st.permutations(range(len(sizes))))[:2]
        table = np.array(draw(st.lists(st.integers(0, 6), min_size=sizes[a] * sizes[b], max_size=sizes[a] * sizes[b])))
        table = table.reshape(sizes[a], sizes[b])
        if draw(st.booleans()):  # the choice of a leaves one of b
            image = draw(st.lists(st.integers(0, sizes[b] - 1), min_size=sizes[a], max_size=sizes[a]))
            table[np.arange(sizes[b])[None, :] != np.array(image)[:, None]] = INFINITE_COST
        elif draw(st.booleans()):
            table[draw(st.integers(0, sizes[a] - 1)), draw(st.integers(0, sizes[b] - 1))] = INFINITE_COST
        edges.append(Edge(a, b, tuple(table.ravel().tolist())))
    return Problem("linked", tuple(nodes), tuple(edges), draw(st.one_of(st.none(), st.integers(0, 14))))


def flat_model(problem: Problem) -> tuple[Merged, FlatModel]:
    """Merged and flattened, without any reduction."""
    work = Workspace(problem)
    merged = merge(work)
    return merged, flatten(merged, *memory_of(work, merged))
