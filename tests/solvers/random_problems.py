"""Random small problems, and what brute force says of them."""

import itertools

from hypothesis import strategies as st

from planner.core.problem import INFINITE_COST, Edge, Node, Problem, evaluate

HUGE = 3 * 10**17
"""Allowed, but four of these are forbidden together; more than floats hold exactly."""


@st.composite
def problems(draw: st.DrawFn, *, huge: bool = True, max_nodes: int = 5, max_strategies: int = 3) -> Problem:
    """Up to 5 nodes of up to 3 strategies, some forbidden pairs, parallel edges, empty intervals, tight limits."""
    costs = st.one_of(*[st.integers(0, 6)] * 3, st.sampled_from([INFINITE_COST, HUGE] if huge else [INFINITE_COST]))
    sizes = draw(st.lists(st.integers(1, max_strategies), min_size=1, max_size=max_nodes))
    nodes = []
    for size in sizes:
        start = draw(st.integers(0, 5))
        nodes.append(
            Node(
                (start, start + draw(st.integers(0, 4))),
                tuple(draw(st.lists(costs, min_size=size, max_size=size))),
                tuple(draw(st.lists(st.integers(0, 5), min_size=size, max_size=size))),
            )
        )
    pairs = [(a, b) for a, b in itertools.permutations(range(len(sizes)), 2)]
    chosen = draw(st.lists(st.sampled_from(pairs), max_size=7)) if pairs else []
    edges = [
        Edge(a, b, tuple(draw(st.lists(costs, min_size=sizes[a] * sizes[b], max_size=sizes[a] * sizes[b]))))
        for a, b in chosen
    ]
    limit = draw(st.one_of(st.none(), st.integers(0, 14)))
    return Problem("random", tuple(nodes), tuple(edges), limit)


def brute_force(problem: Problem) -> int | None:
    """The cheapest feasible cost by trying all choices with the referee; None if there is none."""
    choices = itertools.product(*(range(len(node.costs)) for node in problem.nodes))
    verdicts = (evaluate(problem, choice) for choice in choices)
    return min((v.cost for v in verdicts if v.feasible), default=None)
