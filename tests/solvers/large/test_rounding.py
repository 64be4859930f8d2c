"""The first roundings find what fits where memory is tight, and starts are the best of those seen."""

import numpy as np

from planner.core.problem import INFINITE_COST
from planner.solvers.large.flat import Ints
from planner.solvers.large.rounding import Starts, first_roundings
from tests.solvers.large.linked_problems import flat_model
from tests.solvers.large.test_search import ring


def test_first_roundings_fit() -> None:
    # At every time 40 nodes are live that use 10 to 50 each: 450 is near the least.
    _, model = flat_model(ring(nodes=200, limit=450))
    fitting: list[float] = []
    seen: list[bool] = []

    def see(picks: Ints, usage: Ints, value: float, cost: float) -> None:
        seen.append(bool((usage <= model.room).all()))
        if seen[-1]:
            assert model.fits(picks) and model.cost(picks) == cost < INFINITE_COST
            fitting.append(cost)

    first_roundings(model, see, lambda: bool(fitting))
    assert fitting
    assert not seen[0]  # without a price nothing would


def test_starts_keep_the_cheapest_that_fit() -> None:
    room = np.array([5, 5])
    starts = Starts(room)
    for n, (over, cost) in enumerate([(3, 10.0), (1, 20.0), (2, 5.0)]):
        starts.see(np.array([n]), room + over, 0.0, cost)
    assert [p.tolist() for p in starts.best] == [[1]]  # nothing fits: the nearest
    for n in range(10):
        starts.see(np.array([100 + n]), room, 0.0, 50.0 - n)
    assert [int(p[0]) for p in starts.best] == [109, 108, 107, 106, 105, 104]
