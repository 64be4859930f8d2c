"""How well predictions agree with measurements: relative error, rank correlation, and what trusting the ranking costs.

In: pairs of numbers. Out: numbers without a unit.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations


@dataclass(frozen=True)
class Agreement:
    """Of n predictions with their measurements.

    Attributes:
      count: n.
      median_error, mean_error: of |predicted / measured - 1|.
      bias: median of predicted / measured; below 1 where predictions are low.
      tau: Kendall's rank correlation (`kendall_tau`).
      regret: measured of the plan that is predicted best over the best measured, minus 1.
    """

    count: int
    median_error: float
    mean_error: float
    bias: float
    tau: float
    regret: float


def agreement(predicted: Sequence[float], measured: Sequence[float]) -> Agreement:
    """All figures of one set of plans.

    Raises:
      ValueError: fewer than two plans, or not as many predictions as measurements.
    """
    if len(predicted) < 2 or len(predicted) != len(measured):
        raise ValueError(f"{len(predicted)} predictions and {len(measured)} measurements: give as many, at least two")
    ratios = [p / m for p, m in zip(predicted, measured, strict=True)]
    errors = [abs(r - 1) for r in ratios]
    return Agreement(len(ratios), statistics.median(errors), statistics.fmean(errors), statistics.median(ratios),
                     kendall_tau(predicted, measured), regret(predicted, measured))


def kendall_tau(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau-b, which counts ties (Kendall 1945): 1 for the same order, -1 for the reverse; 0 where one side
    is all ties."""
    together = untied_a = untied_b = 0
    for (a1, b1), (a2, b2) in combinations(zip(a, b, strict=True), 2):
        in_a, in_b = _sign(a1 - a2), _sign(b1 - b2)
        together += in_a * in_b
        untied_a += in_a != 0
        untied_b += in_b != 0
    return together / (untied_a * untied_b) ** 0.5 if untied_a and untied_b else 0.0


def regret(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """By what part the plan that is predicted fastest (the first of equals) is slower than the fastest."""
    chosen = min(range(len(predicted)), key=lambda n: predicted[n])
    return measured[chosen] / min(measured) - 1


def _sign(x: float) -> int:
    return (x > 0) - (x < 0)
