"""The fastest variants that fit, for many numbers in flight at once, against each number by itself."""

import numpy as np
import pytest

from planner.intraop.fastest import fastest_fitting
from tests.intraop.stages import tight_table

FLIGHTS = (1, 2, 3, 5, 8, 40)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_all_numbers_in_flight_get_the_first_of_the_fastest_that_fit(share: float) -> None:
    table, _ = tight_table(4)
    few, many = table.memory_bytes(FLIGHTS[0]), table.memory_bytes(FLIGHTS[-1])
    capacity = float(few.min() + share * (np.quantile(many[np.isfinite(many)], 0.9) - few.min()))
    seconds, variant = fastest_fitting(table, FLIGHTS, capacity, 4)
    step = table.microbatch_s + table.batch_s / 4
    none = 0
    for n, flight in enumerate(FLIGHTS):
        fits = np.where(table.memory_bytes(flight) <= capacity, step, np.inf)
        assert (seconds[n] == fits.min(axis=1)).all() and (variant[n] == fits.argmin(axis=1)).all()
        none += int(np.isinf(seconds[n]).sum())
    assert none > 0 or share > 0
    assert len(np.unique(variant)) > 1 or share == 0.0
