"""What two choices make together fits and is no dearer than the first."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.problem import INFINITE_COST, Edge, Node, Problem
from planner.solvers.large.relink import relink
from tests.solvers.large.linked_problems import flat_model, linked_problems
from tests.solvers.random_problems import problems


@settings(max_examples=200)
@given(problem=st.one_of(linked_problems(), problems(huge=False)), seed=st.integers(0, 99))
def test_fits_and_is_no_dearer(problem: Problem, seed: int) -> None:
    _, model = flat_model(problem)
    rng = np.random.default_rng(seed)
    best, other = rng.integers(0, model.sizes()), rng.integers(0, model.sizes())
    if model.cost(best) >= INFINITE_COST or not model.fits(best):
        return
    mixed = relink(model, best, other)
    assert model.fits(mixed)
    assert model.cost(mixed) <= model.cost(best)
    assert ((mixed == best) | (mixed == other)).all()


def test_takes_each_part_from_whom_has_it_best() -> None:
    # Three pairs that no edge joins: the first choice has two of them right, the second the third.
    nodes = tuple(Node((0, 1), (0, 0), (1, 1)) for _ in range(6))
    edges = tuple(Edge(n, n + 1, (0, 9, 9, 3)) for n in (0, 2, 4))
    _, model = flat_model(Problem("", nodes, edges, None))
    best, other = np.array([0, 0, 0, 0, 1, 1]), np.array([1, 1, 1, 1, 0, 0])
    assert relink(model, best, other).tolist() == [0] * 6


def test_leaves_what_memory_has_no_room_for() -> None:
    nodes = tuple(Node((0, 1), (9 - n, 0), (1, 4)) for n in range(3))
    _, model = flat_model(Problem("", nodes, (), 6))
    mixed = relink(model, np.zeros(3, dtype=np.int64), np.ones(3, dtype=np.int64))
    choices = [np.array(c) for c in itertools.product((0, 1), repeat=3)]
    assert model.cost(mixed) == min(model.cost(c) for c in choices if model.fits(c))
