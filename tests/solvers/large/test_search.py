"""The search as a whole: it finds a solution wherever there is one, and ends in time with a true bound."""

import random
import time
from unittest import mock

from hypothesis import given, settings

from planner.core.problem import Edge, Node, Problem, Status, evaluate
from planner.solvers import Progress, auto, solve
from planner.solvers.large.search import search_large
from planner.solvers.reduce import reduce_problem
from tests.solvers.large.linked_problems import linked_problems
from tests.solvers.random_problems import brute_force


@settings(max_examples=25, deadline=None)
@given(problem=linked_problems())
def test_finds_a_solution_if_there_is_one(problem: Problem) -> None:
    best = brute_force(problem)
    reduction = reduce_problem(problem, rules=())
    if reduction.impossible:
        assert best is None
        return
    offers: list[int] = []

    def offer(choice: tuple[int, ...], bound: int) -> int:
        verdict = evaluate(problem, reduction.expand(choice))
        assert verdict.feasible
        assert bound + reduction.constant <= verdict.cost
        offers.append(verdict.cost)
        return verdict.cost - reduction.constant

    found = search_large(reduction, offer, deadline=time.perf_counter() + 0.3)
    assert bool(offers) == (best is not None)
    if best is not None:
        assert found.bound + reduction.constant <= best <= min(offers)


def ring(*, nodes: int, limit: int) -> Problem:
    draw = random.Random(3)
    made = tuple(
        Node((n, n + 40), tuple(draw.randint(0, 1000) for _ in range(5)), (50, 40, 30, 20, 10)) for n in range(nodes)
    )
    chords = [(n, (n + step) % nodes) for n in range(nodes) for step in (1, 7)]
    edges = tuple(Edge(a, b, tuple(draw.randint(0, 500) for _ in range(25))) for a, b in chords)
    return Problem("ring", made, edges, limit)


def test_auto_takes_it_for_large_problems_and_ends_in_time() -> None:
    problem = ring(nodes=400, limit=900)
    seen: list[Progress] = []
    with mock.patch.object(auto, "MAX_TERMS", 0), mock.patch.object(auto, "MAX_TABLE", 0):
        solve(ring(nodes=40, limit=900), timeout_s=0.1, threads=2)  # compiles the loops, if no run before has
        began = time.perf_counter()
        found = solve(problem, timeout_s=5, threads=2, on_progress=seen.append)
        took = time.perf_counter() - began
    assert took < 60  # the limit, on a machine that does much else; without one this takes forever
    assert found.status is Status.FEASIBLE
    assert found.choice is not None and found.cost is not None and found.gap is not None
    assert evaluate(problem, found.choice).feasible
    assert evaluate(problem, found.choice).cost == found.cost
    assert "merged" in found.solver
    assert found.gap < 0.2
    assert seen and seen[-1].cost == found.cost


def test_proves_that_nothing_fits() -> None:
    # Any two nodes that are live together fit at their smallest, but cheap pairs force one of each three to be large.
    ban = 10**18
    nodes = tuple(Node((n, n + 3), (1, 1), (1, 5)) for n in range(40))
    edges = tuple(Edge(n, n + 1, (ban, 0, 0, 0)) for n in range(39))
    problem = Problem("too large", nodes, edges, 6)
    with mock.patch.object(auto, "MAX_TERMS", 0), mock.patch.object(auto, "MAX_TABLE", 0):
        found = solve(problem, timeout_s=5)
    assert (found.status, found.choice) == (Status.INFEASIBLE, None)
    fits = Problem("fits", nodes, edges, 11)
    with mock.patch.object(auto, "MAX_TERMS", 0), mock.patch.object(auto, "MAX_TABLE", 0):
        assert solve(fits, timeout_s=5).cost == 40


def test_ends_once_the_bound_is_met() -> None:
    # A path without a memory limit: messages are exact on it, so the bound is the optimum.
    whole = ring(nodes=60, limit=0)
    path = Problem("path", whole.nodes, whole.edges[0:118:2])
    reduction = reduce_problem(path, rules=())
    costs: list[int] = []

    def offer(choice: tuple[int, ...], bound: int) -> int:
        costs.append(evaluate(path, reduction.expand(choice)).cost)
        return costs[-1]

    began = time.perf_counter()
    found = search_large(reduction, offer, deadline=began + 300)
    assert time.perf_counter() - began < 150
    assert found.bound == min(costs)
