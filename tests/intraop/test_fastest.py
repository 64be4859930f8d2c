"""The fastest variants that fit, for many numbers in flight at once, against each number by itself."""

import numpy as np
import pytest

from planner.intraop.fastest import fastest_fitting
from planner.intraop.slice_choice import table_choice
from tests.intraop.stages import tight_table

FLIGHTS = (1, 2, 3, 5, 8, 40)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_all_numbers_in_flight_get_the_fastest_of_all_variants_that_fit(share: float) -> None:
    """Of all that there are, though few are kept."""
    table, _ = tight_table(4)
    few, many = table.useful.memory_bytes(FLIGHTS[0]), table.useful.memory_bytes(FLIGHTS[-1])
    capacity = float(few.min() + share * (np.quantile(many, 0.9) - few.min()))
    seconds, variant = fastest_fitting(table, FLIGHTS, capacity)
    layers, none = len(table.layers), 0
    for first, last in [(k, j) for k in range(layers) for j in range(k, layers)]:
        choices, at = [table_choice(table, first, last, g) for g in range(len(table.variants))], table.of(first, last)
        step = np.array([c.microbatch_s + c.batch_s / table.microbatches for c in choices])
        for n, flight in enumerate(FLIGHTS):
            fits = np.array([c.memory_bytes(flight) for c in choices]) <= capacity * (1 + 1e-12)
            least = step[fits].min(initial=np.inf)
            assert seconds[n, at] == pytest.approx(least, rel=1e-12)
            if np.isfinite(least):
                assert fits[variant[n, at]] and step[variant[n, at]] == pytest.approx(least, rel=1e-12)
            none += int(np.isinf(least))
    assert none > 0 or share > 0
    assert len(np.unique(variant)) > 1 or share == 0.0
