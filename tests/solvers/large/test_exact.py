"""Exact means on merged problems agree with brute force, rows of memory left out at first."""

import threading
import time

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.problem import INFINITE_COST, Edge, Node, Problem
from planner.solvers.large.exact import eliminate_merged, solve_exactly
from planner.solvers.large.incumbent import Large
from planner.solvers.large.prices import Prices
from planner.solvers.large.search import build
from planner.solvers.large.sweeps import no_messages
from planner.solvers.reduce import reduce_problem
from tests.solvers.large.linked_problems import linked_problems
from tests.solvers.random_problems import brute_force, problems

any_problems = st.one_of(linked_problems(), problems(huge=False))


def large_of(problem: Problem) -> Large | None:
    """The problem merged; None if it is impossible on the face of it."""
    reduction = reduce_problem(problem, rules=())
    if reduction.impossible:
        return None
    built = build(reduction)
    assert built is not None
    merged, model = built
    return Large(reduction, merged, model, lambda choice, bound: 0)


def search(large: Large, stop: threading.Event) -> None:
    """CP-SAT with no row of memory known beforehand."""
    no_prices = Prices(np.zeros(len(large.model.room)), 0.0, no_messages(large.model))
    solve_exactly(large, no_prices, time.perf_counter() + 20, 1, stop)


@settings(max_examples=60)
@given(problem=any_problems)
def test_cpsat_finds_and_proves_the_optimum(problem: Problem) -> None:
    best = brute_force(problem)
    large = large_of(problem)
    if large is None:
        assert best is None
        return
    search(large, threading.Event())
    constant = large.reduction.constant
    if best is None:
        assert (large.best, large.bound) == (None, INFINITE_COST)
    else:
        assert large.best is not None
        assert large.model.fits(large.best)
        assert large.model.cost(large.best) == large.cost == large.bound == best - constant


@settings(max_examples=100)
@given(problem=any_problems)
def test_elimination_bounds_and_solves_what_fits(problem: Problem) -> None:
    best = brute_force(problem)
    large = large_of(problem)
    if large is None:
        assert best is None
        return
    eliminate_merged(large)
    constant = large.reduction.constant
    if best is None:
        assert large.best is None
    else:
        assert large.bound + constant <= best
        if large.best is not None or problem.usage_limit is None:
            assert large.cost + constant == large.bound + constant == best


def test_a_row_is_added_when_a_solution_breaks_it() -> None:
    # Alone each node takes its cheap strategy; at every time only one of the three that are live may.
    nodes = tuple(Node((n, n + 3), (0, 5 + n), (4, 1)) for n in range(9))
    edges = tuple(Edge(n, n + 1, (1, 0, 0, 1)) for n in range(8))
    problem = Problem("", nodes, edges, 6)
    large = large_of(problem)
    assert large is not None
    search(large, threading.Event())
    assert large.cost + large.reduction.constant == brute_force(problem)


def test_a_stopped_search_ends() -> None:
    problem = Problem("", tuple(Node((n, n + 3), (0, 5 + n), (4, 1)) for n in range(9)), (), 6)
    large = large_of(problem)
    assert large is not None
    stop = threading.Event()
    stop.set()
    search(large, stop)
    assert large.bound == 0 and large.best is None
