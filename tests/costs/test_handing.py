"""What stages pay for what lies between them, against sums over their layers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.costs.handing import HandOvers, handed_between, handed_s, nothing_handed


@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_a_stage_pays_for_its_calls_results_and_what_enters(seed: int, layers: int) -> None:
    random = np.random.default_rng(seed)
    results, entering = random.integers(0, 5, layers), random.uniform(0, 1, (2, layers))
    of = HandOvers(random.uniform(0, 1, 2), random.uniform(0, 1, 2), random.uniform(1, 2, 2),
                   np.concatenate([[0.0], np.cumsum(results)]), entering)
    every = np.arange(layers)
    for m in range(2):
        found = handed_between(of, m, every, every)
        for first in range(layers):
            for last in range(first, layers):
                calls_s = of.calls_s[m] + sum(of.result_s[m] for n in range(first, last + 1) for _ in range(results[n]))
                want = calls_s * of.busy[m] + entering[m, first]
                whole = (first, last) == (0, layers - 1)
                assert found[first, last] == handed_s(of, m, first, last)
                assert found[first, last] == pytest.approx(0.0 if whole else want, rel=1e-12)
    starts = np.unique([0, *random.integers(0, layers, 3)])
    lasts = np.append(starts[1:], layers) - 1
    some = np.arange(len(starts))
    np.testing.assert_array_equal(handed_between(of.beginning(starts), 1, some, some),
                                  handed_between(of, 1, starts, lasts))


def test_stages_that_pay_nothing() -> None:
    assert not handed_between(nothing_handed(2, 4), 1, np.arange(4), np.arange(4)).any()
