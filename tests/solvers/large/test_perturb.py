"""Perturbed starts are choices of the model that nothing forbids, and differ from draw to draw."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.problem import INFINITE_COST, Edge, Node, Problem
from planner.solvers.large.perturb import perturbed
from planner.solvers.large.prices import Prices
from planner.solvers.large.sweeps import no_messages, rent
from tests.solvers.large.linked_problems import flat_model, linked_problems


@settings(max_examples=60)
@given(problem=linked_problems(), seed=st.integers(0, 99))
def test_picks_are_allowed(problem: Problem, seed: int) -> None:
    _, model = flat_model(problem)
    prices = Prices(np.ones(len(model.room)), 0.0, no_messages(model))
    costs = model.graph.costs + rent(model, prices.prices)
    picks = perturbed(model, prices, costs, 10.0, np.random.default_rng(seed))
    if picks is not None:
        assert ((picks >= 0) & (picks < model.sizes())).all()
        assert model.cost(picks) < INFINITE_COST
    assert not prices.messages.given.any()  # the messages of the prices stay as they were


def test_choices_nearly_as_good_come_up() -> None:
    # Two chains of layouts that cost almost the same: a perturbation takes all of one or all of the other.
    nodes = tuple(Node((0, 1), (10, 10, 90), (0, 0, 0)) for _ in range(8))
    edges = tuple(Edge(n, n + 1, (0, 60, 60, 60, 0, 60, 60, 60, 0)) for n in range(7))
    _, model = flat_model(Problem("", nodes, edges, None))
    prices = Prices(np.zeros(0), 0.0, no_messages(model))
    rng = np.random.default_rng(0)
    found = [perturbed(model, prices, model.graph.costs, 1000.0, rng) for _ in range(20)]
    assert {tuple(picks.tolist()) for picks in found if picks is not None} == {(0,) * 8, (1,) * 8}
