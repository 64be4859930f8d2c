"""Tree moves keep the books right, and are exact where the whole problem is a tree."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.problem import INFINITE_COST, Edge, Node, Problem
from planner.solvers.large.trees import Moves, Place, search_trees
from planner.solvers.large.watch import peaks, watch
from tests.solvers.large.linked_problems import flat_model, linked_problems
from tests.solvers.random_problems import brute_force, problems


@settings(max_examples=40)  # brute force takes most of it
@given(problem=st.one_of(linked_problems(), problems(huge=False)), seed=st.integers(0, 99))
def test_usage_and_best_are_what_they_say(problem: Problem, seed: int) -> None:
    _, model = flat_model(problem)
    rng = np.random.default_rng(seed)
    start = rng.integers(0, model.sizes())
    place = Place(start.copy(), model.usage(start), start.copy(), np.inf)
    rents = rng.random(len(model.graph.costs))
    search_trees(model, place, rents, Moves(50, 4, float(seed % 2 * 3), 0.5, 2.0), seed)
    assert (place.usage == model.usage(place.choice)).all()
    if place.best_cost < INFINITE_COST:
        best = brute_force(problem)
        assert model.fits(place.best)
        assert place.best_cost == model.cost(place.best)
        assert best is not None and place.best_cost >= best


@settings(max_examples=40)
@given(data=st.data(), size=st.integers(2, 6))
def test_one_move_solves_a_tree(data: st.DataObject, size: int) -> None:
    numbers = st.lists(st.integers(0, 50), min_size=9, max_size=9).map(tuple)
    nodes = tuple(Node((0, 1), data.draw(numbers)[:3], (0, 0, 0)) for _ in range(size))
    edges = tuple(Edge(data.draw(st.integers(0, n - 1)), n, data.draw(numbers)) for n in range(1, size))
    problem = Problem("", nodes, edges)
    _, model = flat_model(problem)
    start = np.zeros(size, dtype=np.int64)
    place = Place(start, model.usage(start), start.copy(), np.inf)
    nothing = np.zeros(len(model.graph.costs))
    search_trees(model, place, nothing, Moves(60, size, 0.0, 0.0, 0.0), 1)  # sizes are drawn: some span the tree
    assert model.cost(place.choice) == brute_force(problem)


@given(problem=linked_problems(), data=st.data())
def test_watched_times(problem: Problem, data: st.DataObject) -> None:
    _, model = flat_model(problem)
    times = np.array(sorted(data.draw(st.sets(st.sampled_from(range(len(model.room)))))) if len(model.room) else [],
                     dtype=np.int64)  # fmt: skip
    choice = np.array([data.draw(st.integers(0, n - 1)) for n in model.sizes().tolist()], dtype=np.int64)
    assert watch(model, times).usage(choice).tolist() == model.usage(choice)[times].tolist()


@given(st.lists(st.integers(-3, 3), max_size=8))
def test_peaks(levels: list[int]) -> None:
    usage = np.array(levels, dtype=np.int64)
    found = peaks(usage, np.zeros_like(usage), 0)
    assert all(usage[t] > 0 for t in found)
    assert bool(len(found)) == any(level > 0 for level in levels)
    assert not len(found) or usage[found].max() == max(levels)
