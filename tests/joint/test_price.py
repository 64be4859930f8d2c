"""What fits is better than what does not, what lacks less is better, then what is faster."""

import pytest

from planner.joint.price import Price


def price(missing: float, seconds: float) -> Price:
    return Price(missing, seconds, 1e9)


@pytest.mark.parametrize(("better", "worse"), [
    (price(0, 9.0), price(1, 1.0)),  # it fits, however slow, however closely the other doesn't
    (price(1e8, 9.0), price(2e8, 1.0)), (price(1e8, 1.0), price(1e8, 2.0)), (price(0, 1.0), price(0, 1.002)),
    (price(2e8, 9.0), price(float("inf"), float("inf")))])
def test_what_gains(better: Price, worse: Price) -> None:
    assert better.gains_over(worse) and not worse.gains_over(better)
    assert better < worse


@pytest.mark.parametrize(("one", "other"), [
    (price(0, 1.0), price(0, 1.00005)), (price(1e8, 1.0), price(1.0001e8, 1.0)),
    (price(float("inf"), float("inf")), price(float("inf"), float("inf")))])
def test_what_is_as_good(one: Price, other: Price) -> None:
    assert not one.gains_over(other) or one.missing_bytes < other.missing_bytes
    assert not other.gains_over(one)


def test_how_near_the_best() -> None:
    best, short = price(0, 1.0), price(1e8, 5.0)
    assert price(0, 1.04).is_within(1.05, best) and not price(0, 1.06).is_within(1.05, best)
    assert not short.is_within(1.05, best) and best.is_within(1.05, short)
    assert price(1.5e8, 9.0).is_within(1.05, short) and not price(1.6e8, 1.0).is_within(1.05, short)
    assert str(short) == "0.1 GB missing" and str(best) == "1000 ms/step"
