"""The least of lines is the least of lines, however it was put together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.costs.curve import Curve

LINES = st.lists(st.tuples(st.floats(0, 10), st.floats(0.001, 10)), min_size=1, max_size=6)
SIZES = np.concatenate([[0.0], np.geomspace(1e-3, 1e6, 40)])


def value(lines, size):
    return min(fixed + per_byte * size for fixed, per_byte in lines)


@given(LINES)
def test_nothing_is_lost_by_leaving_lines_out(lines):
    curve = Curve.least(lines)
    assert set(curve.lines) <= set(lines)
    for size in SIZES:
        assert curve.at(size) == pytest.approx(value(lines, size))
    assert curve.over(SIZES) == pytest.approx([value(lines, size) for size in SIZES])


@given(LINES, LINES, st.floats(0.01, 1))
def test_sums_choices_and_shares(first, second, share):
    a, b = Curve.least(first), Curve.least(second)
    for size in SIZES:
        assert (a + b).at(size) == pytest.approx(value(first, size) + value(second, size))
        assert a.or_else(b).at(size) == pytest.approx(min(value(first, size), value(second, size)))
        assert a.of_share(share).at(size) == pytest.approx(value(first, share * size))


def test_only_lines_that_win_somewhere_are_kept():
    assert Curve.least([(0.0, 3.0), (1.0, 2.5), (2.0, 1.0), (5.0, 1.0)]).lines == ((0.0, 3.0), (2.0, 1.0))
