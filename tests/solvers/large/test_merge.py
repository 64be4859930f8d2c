"""Merged and pruned problems have the optimum of the original, and each of their choices means one of it."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.problem import INFINITE_COST, Edge, Node, Problem, evaluate
from planner.solvers.large.flat import choice_of
from planner.solvers.large.merge import merge
from planner.solvers.large.search import build
from planner.solvers.reduce import reduce_problem
from planner.solvers.workspace import Workspace
from tests.solvers.large.linked_problems import flat_model, linked_problems
from tests.solvers.random_problems import brute_force, problems

any_problems = st.one_of(linked_problems(), problems(huge=False))


@settings(max_examples=150)
@given(problem=any_problems)
def test_every_choice_keeps_its_cost_and_memory(problem: Problem) -> None:
    merged, model = flat_model(problem)
    cheapest: list[int] = []
    for picks in itertools.product(*(range(n) for n in model.sizes().tolist())):
        flat = np.array(picks, dtype=np.int64)
        choice = choice_of(merged.members(), model, flat)
        verdict = evaluate(problem, tuple(choice[v] for v in range(len(problem.nodes))))
        assert min(model.cost(flat), INFINITE_COST) == min(verdict.cost, INFINITE_COST)
        assert model.fits(flat) == (verdict.violated_at is None)
        if verdict.feasible:
            cheapest.append(verdict.cost)
    assert min(cheapest, default=None) == brute_force(problem)


@settings(max_examples=150)
@given(problem=any_problems)
def test_reduced_merged_and_pruned_keeps_the_optimum(problem: Problem) -> None:
    reduction = reduce_problem(problem)
    if reduction.impossible:
        return
    built = build(reduction)
    assert built is not None
    merged, model = built
    cheapest: list[int] = []
    for picks in itertools.product(*(range(n) for n in model.sizes().tolist())):
        flat = np.array(picks, dtype=np.int64)
        if model.cost(flat) < INFINITE_COST and model.fits(flat):
            choice = choice_of(merged.members(), model, flat)
            verdict = evaluate(problem, reduction.expand([choice[v] for v in reduction.work.remaining()]))
            assert verdict.violated_at is None
            assert verdict.cost == model.cost(flat) + reduction.constant
            if verdict.feasible:
                cheapest.append(verdict.cost)
    assert min(cheapest, default=None) == brute_force(problem)


def test_a_chain_of_layouts_is_one_node() -> None:
    # Six nodes that pass a layout on, and one free edge to a seventh: two nodes are left.
    ban = INFINITE_COST
    nodes = tuple(Node((n, n + 2), (1, 2), (3, 5)) for n in range(7))
    edges = tuple(Edge(n, n + 1, (0, ban, ban, 0)) for n in range(5)) + (Edge(5, 6, (1, 2, 3, 4)),)
    merged = merge(Workspace(Problem("", nodes, edges, 100)))
    assert len(merged.labels) == 2
    assert sorted(len([m for m in merged.members() if m.of == v]) for v in merged.labels) == [1, 6]


def test_merging_stops_where_edges_would_grow() -> None:
    # The hub has 2 strategies and 5 neighbours of 4 that it doesn't touch; a node of 40 determines it.
    ban = INFINITE_COST
    sizes = (40, 2, 4, 4, 4, 4, 4)
    nodes = tuple(Node((0, 1), tuple(range(size)), tuple(range(size))) for size in sizes)
    determined = Edge(0, 1, tuple(0 if i % 2 == j else ban for i in range(40) for j in range(2)))
    edges = (determined, *(Edge(1, v, tuple(range(8))) for v in range(2, 7)))
    assert len(merge(Workspace(Problem("", nodes, edges, 30))).labels) == 7
    assert len(merge(Workspace(Problem("", nodes, edges[:1], 30))).labels) == 6  # 0 and 1 in one
