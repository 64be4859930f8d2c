"""Figures of agreement on cases small enough to count by hand."""

import pytest
from agreement import agreement, kendall_tau, regret
from hypothesis import given
from hypothesis import strategies as st

FLOATS = st.lists(st.floats(0.1, 10), min_size=2, max_size=12, unique=True)


def test_one_swap_of_four_costs_a_third():
    # Six pairs, one of them in the wrong order: (5 - 1) / 6.
    assert kendall_tau([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(4 / 6)


def test_ties_count_on_the_side_that_has_them():
    # Three pairs; a ties one, the others agree: 2 / sqrt(2 * 3).
    assert kendall_tau([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / 6**0.5)
    assert kendall_tau([1, 1, 1], [1, 2, 3]) == 0


@given(FLOATS)
def test_only_the_order_matters(xs):
    assert kendall_tau(xs, [x**3 for x in xs]) == pytest.approx(1)
    assert kendall_tau(xs, [-x for x in xs]) == pytest.approx(-1)


def test_regret_is_that_of_the_first_predicted_best():
    assert regret([2.0, 1.0, 3.0], [10.0, 12.0, 8.0]) == pytest.approx(0.5)
    assert regret([1.0, 1.0], [4.0, 5.0]) == 0


def test_errors_and_bias():
    found = agreement([0.5, 1.2, 1.0], [1.0, 1.0, 1.0])
    assert (found.count, found.median_error, found.bias) == (3, pytest.approx(0.2), 1.0)
    assert found.mean_error == pytest.approx(0.7 / 3)


@pytest.mark.parametrize(("predicted", "measured"), [([1.0], [1.0]), ([1.0, 2.0], [1.0])])
def test_too_few_or_unequal_numbers_are_refused(predicted, measured):
    with pytest.raises(ValueError, match="at least two"):
        agreement(predicted, measured)
