"""What hides behind compute, by hand and by its laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.costs.overlap import hidden_s

seconds, part = st.floats(0, 10), st.floats(0, 1)


@pytest.mark.parametrize(("communication", "fraction", "compute", "left"), [
    (4.0, 0.0, 10.0, 4.0), (4.0, 0.75, 10.0, 1.0), (4.0, 1.0, 10.0, 0.0), (4.0, 1.0, 1.5, 2.5), (4.0, 0.5, 1.5, 2.5)])
def test_by_hand(communication, fraction, compute, left):
    assert communication - hidden_s(fraction * communication, compute) == pytest.approx(left)


@given(seconds, part, seconds)
def test_a_step_is_no_shorter_than_its_compute_and_no_longer_than_without(communication, fraction, compute):
    step = compute + communication - hidden_s(fraction * communication, compute)
    assert max(compute, communication) - 1e-12 <= step <= compute + communication + 1e-12


def test_arrays_are_taken_one_by_one():
    assert hidden_s(np.array([1.0, 3.0]), np.array([2.0, 2.0])).tolist() == [1.0, 2.0]
