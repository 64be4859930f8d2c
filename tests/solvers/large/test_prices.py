"""Bounds are never above the optimum, whatever the messages and prices."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.problem import Edge, Node, Problem, evaluate
from planner.solvers.large.flat import Ints, choice_of
from planner.solvers.large.prices import search_prices
from planner.solvers.large.sweeps import bound, no_messages, rent, sweep
from tests.solvers.large.linked_problems import flat_model, linked_problems
from tests.solvers.random_problems import brute_force, problems

any_problems = st.one_of(linked_problems(), problems(huge=False))


@settings(max_examples=80)
@given(problem=any_problems, seed=st.integers(0, 99), sweeps=st.integers(0, 6))
def test_any_messages_and_prices_bound(problem: Problem, seed: int, sweeps: int) -> None:
    best = brute_force(problem)
    _, model = flat_model(problem)
    rng = np.random.default_rng(seed)
    prices = rng.random(len(model.room)) * 3
    messages = no_messages(model)
    messages.given[:] = rng.normal(size=len(messages.given)) * 5
    costs = model.graph.costs + rent(model, prices)
    total = -np.inf
    for n in range(sweeps):
        total = sweep(model, messages, costs, forward=n % 2 == 0).total
    proven = bound(model, messages, costs)
    if sweeps:
        rounding = 100 * np.spacing(np.abs(costs).max())  # a forbidden pair costs 1e18, of which 128 is the last bit
        assert proven == pytest.approx(total, abs=1e-6 * max(1.0, abs(total)) + rounding)
    assert best is None or proven - float((prices * model.room).sum()) <= best + 1e-9


@settings(max_examples=40)
@given(problem=any_problems)
def test_price_search(problem: Problem) -> None:
    best = brute_force(problem)
    merged, model = flat_model(problem)

    def see(picks: Ints, usage: Ints, value: float, cost: float) -> None:
        choice = choice_of(merged.members(), model, picks)
        verdict = evaluate(problem, tuple(choice[v] for v in range(len(problem.nodes))))
        if cost < 1e15:
            assert verdict.cost == cost
            assert bool((usage <= model.room).all()) == (verdict.violated_at is None)

    found = search_prices(model, time.perf_counter() + 0.05, see, most_sweeps=200)
    assert (found.prices >= 0).all()
    assert best is None or found.bound <= best + 1e-6


def test_prices_lift_the_bound() -> None:
    # Cheap strategies use 5 each, dear ones 1; only one cheap one fits. The free optimum is 0, the true one 8; with a
    # price p on memory it is at least min(0, 9 - 4p) + min(0, 8 - 4p) + 10p - 6p, at most 8 at p = 2.
    pair = Problem("", (Node((0, 1), (0, 9), (5, 1)), Node((0, 1), (0, 8), (5, 1))), (Edge(0, 1, (0, 0, 0, 1)),), 6)
    _, model = flat_model(pair)
    found = search_prices(model, time.perf_counter() + 20, lambda *_: None, most_sweeps=1000)
    assert 7 < found.bound <= 8
