"""Sums of tables minimised without being formed, against NumPy, which forms them."""

import numpy as np
import pytest

from planner.solvers.min_sum import minimum

SHAPES = {
    "product": [(3, 11, 5, 1), (3, 11, 1, 7)],
    "product, one table for all of the batch": [(1, 9, 1, 6), (4, 9, 3, 1)],
    "product, axes between": [(2, 6, 3, 1, 1), (2, 6, 1, 4, 5)],
    "product, a last axis of one table": [(2, 13, 1), (2, 13, 8)],
    "both along the last axis": [(2, 5, 3, 4), (2, 5, 1, 4)],
    "three tables": [(2, 5, 3, 1), (2, 5, 1, 4), (1, 5, 3, 4)],
    "nothing else": [(2, 5), (2, 5)],
}


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_as_if_the_sum_were_formed(shapes: list[tuple[int, ...]]) -> None:
    rng = np.random.default_rng(0)
    tables = [np.where(rng.random(shape) < 0.3, np.inf, rng.random(shape)) for shape in shapes]
    np.testing.assert_allclose(minimum(tables), np.asarray(sum(tables)).min(axis=1), rtol=1e-15)  # sums of three, in another order
