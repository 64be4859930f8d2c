"""Slices are alike exactly where their layers' classes are, in order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.intraop.distinct import distinct_slices

SEQUENCES = ((0,), (0, 0, 0, 0), (0, 1, 1, 1, 1, 2, 3), (0, 1, 2, 0, 1, 2, 0), (0, 1, 2, 3))


def check(classes):
    found, count = distinct_slices(classes), len(classes)
    of = {}
    for i in range(count):
        for j in range(count):
            number = int(found.at[i, j])
            if i > j:
                assert number == -1
                continue
            assert of.setdefault(number, tuple(classes[i:j + 1])) == tuple(classes[i:j + 1])
            assert int(found.shorter[number]) == (int(found.at[i, j - 1]) if j > i else -1)
            level = found.levels[j - i]
            at = number - level.first
            start = int(level.starts[at])
            assert classes[start:start + j - i + 1] == classes[i:j + 1]
            assert int(level.shorter[at]) == int(found.shorter[number])
    assert len(set(of.values())) == len(of) == len(found)
    return found


@pytest.mark.parametrize("classes", SEQUENCES)
def test_numbers_are_shared_by_slices_of_equal_classes_alone(classes):
    check(classes)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=9))
def test_numbers_are_shared_by_slices_of_equal_classes_alone_whatever_repeats(classes):
    check(tuple(classes))


def test_equal_layers_have_a_slice_per_length():
    assert len(distinct_slices((7,) * 50)) == 50
    assert len(distinct_slices((0, *(1,) * 50, 2))) == 51 + 50 + 51 + 1


def test_values_are_spread_over_all_slices():
    found = distinct_slices((0, 1, 1))
    every = np.arange(3)
    np.testing.assert_array_equal(found.spread(np.arange(float(len(found))), every, every),
                                  [[0, 2, 4], [np.inf, 1, 3], [np.inf, np.inf, 1]])
    np.testing.assert_array_equal(found.spread(np.arange(float(len(found))), np.array([0, 2]), np.array([1, 2])),
                                  [[2, 4], [np.inf, 1]])
