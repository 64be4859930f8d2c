"""Dual ascent: its bound is one, it is tight where theory says so, and what it calls too dear can go."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.problem import INFINITE_COST, Edge, Node, Problem, evaluate
from planner.solvers.dual_ascent import Ascended, Ascent, ascend
from planner.solvers.exhaustive import exhaustive
from planner.solvers.reduce import reduce_further
from planner.solvers.reductions.too_dear import remove_too_dear
from planner.solvers.table import SolveOptions
from planner.solvers.workspace import Workspace
from tests.solvers.random_problems import brute_force, problems


def run(problem: Problem, state: Ascent, patience: int = 30) -> tuple[Ascended, list[tuple[tuple[int, ...], int]]]:
    offers: list[tuple[tuple[int, ...], int]] = []

    def offer(choice: tuple[int, ...], bound: int) -> int:
        offers.append((choice, bound))
        return evaluate(problem, choice).cost

    return ascend(state, offer, deadline=time.perf_counter() + 20, patience=patience), offers


@settings(max_examples=120)
@given(problem=problems(huge=False))
def test_bounds_and_offers_are_true(problem: Problem) -> None:
    best = brute_force(problem)
    found, offers = run(problem, Ascent(problem))
    for choice, bound in offers:
        assert evaluate(problem, choice).violated_at is None
        assert best is not None and bound <= best
    if best is not None:
        assert found.bound <= best


@settings(max_examples=60)
@given(problem=problems(huge=True, max_nodes=4))
def test_bounds_are_true_of_huge_costs(problem: Problem) -> None:
    best = brute_force(problem)
    found, _ = run(problem, Ascent(problem))
    assert best is None or found.bound <= best


@given(data=st.data(), size=st.integers(2, 6))
def test_tight_on_chains(data: st.DataObject, size: int) -> None:
    numbers = st.lists(st.integers(0, 50), min_size=9, max_size=9).map(tuple)
    nodes = tuple(Node((0, 1), data.draw(numbers)[:3], (0, 0, 0)) for _ in range(size))
    chain = Problem("", nodes, tuple(Edge(n, n + 1, data.draw(numbers)) for n in range(size - 1)))
    found, offers = run(chain, Ascent(chain))
    best = brute_force(chain)
    assert found.bound == best
    assert evaluate(chain, offers[-1][0]).cost == best


def test_prices_lift_the_bound_over_the_free_optimum() -> None:
    # Two nodes, cheap strategies use 5 each, dear ones 1; only one cheap one fits. Free optimum 0; the true one 8.
    nodes = (Node((0, 1), (0, 9), (5, 1)), Node((0, 1), (0, 8), (5, 1)))
    pair = Problem("", nodes, (Edge(0, 1, (0, 0, 0, 1)),), 6)
    found, offers = run(pair, Ascent(pair), patience=300)
    assert 1 <= found.bound <= 8
    assert offers and evaluate(pair, offers[-1][0]).cost <= 9


@settings(max_examples=120)
@given(problem=problems(huge=False), slack=st.integers(0, 2))
def test_too_dear_keeps_the_best(problem: Problem, slack: int) -> None:
    best = brute_force(problem)
    if best is None:
        return
    state = Ascent(problem)
    run(problem, state)
    work = Workspace(problem)
    remove_too_dear(work, state, best + slack)
    reduction = reduce_further(work, rules=())
    assert not reduction.impossible
    found = exhaustive(reduction.problem, SolveOptions(20))
    assert found.cost == best
    assert found.choice is not None
    assert evaluate(problem, reduction.expand(found.choice)).cost == best


def test_too_dear_removes_something() -> None:
    pair = Problem("", (Node((0, 1), (0, 50, 3), (0, 0, 0)), Node((0, 1), (0, 2), (0, 0))), (Edge(0, 1, (0, 9) * 3),))
    state = Ascent(pair)
    run(pair, state)
    work = Workspace(pair)
    remove_too_dear(work, state, known=4)
    assert work.alive[0].tolist() == [0, 2]
    assert work.alive[1].tolist() == [0]


@pytest.mark.parametrize("cost", [0, 1, INFINITE_COST])
def test_single_node(cost: int) -> None:
    lone = Problem("", (Node((0, 1), (cost,), (1,)),), (), 5)
    found, offers = run(lone, Ascent(lone))
    assert found.bound <= cost
    assert bool(offers) == (cost < INFINITE_COST)
