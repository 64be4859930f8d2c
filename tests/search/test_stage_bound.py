"""The bound below every schedule against exhaustive search over slicings."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.pipelines.bound import Floors, least_step
from planner.pipelines.slicings import each_time


def exhaustive(floors):
    """The least bound of any slicing of layers and assignment of submeshes that uses all devices."""
    stages_max, submeshes, layers = floors.times.shape
    best = np.inf
    for count in range(1, min(stages_max, layers) + 1):
        for cuts, meshes in product(combinations(range(1, layers), count - 1), product(range(submeshes), repeat=count)):
            if sum(floors.sizes[m] for m in meshes) != floors.devices:
                continue
            bounds, before, most = [0, *cuts, layers], 0.0, 0.0
            for s, m in enumerate(meshes):
                k, j = bounds[s], bounds[s + 1] - 1
                most = max(most, before + floors.microbatches * floors.times.of(count - 1 - s, m, k, j))
                before += floors.through_s[m, k, j]
            best = min(best, most)
    return best


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.sampled_from([1, 4, 32]), st.booleans())
def test_equals_exhaustive_search_within_its_tolerance(seed, layers, microbatches, holes):
    rng = np.random.default_rng(seed)
    sizes = np.array([1, 2, 4])
    times = np.sort(rng.uniform(0.1, 2.0, size=(min(layers, 4), 3, layers, layers)), axis=3)
    times[:, :, np.tril_indices(layers, -1)[0], np.tril_indices(layers, -1)[1]] = np.inf
    if holes:
        times[rng.random(times.shape) < 0.3] = np.inf
    floors = Floors(each_time(times), rng.uniform(0.0, 0.5, size=times.shape[1:]), sizes, 4, microbatches)
    best, found = exhaustive(floors), least_step(floors, tolerance=1e-4)
    if found is None:
        assert best == np.inf
    else:
        assert found.lower_bound_s <= best * (1 + 1e-12) <= found.total_s * (1 + 1e-9)
        assert found.total_s <= found.lower_bound_s * (1 + 1.1e-4)


def test_a_bound_above_what_is_known_is_not_looked_for():
    times = np.full((2, 1, 2, 2), np.inf)
    times[:, 0][:, [0, 1, 0], [0, 1, 1]] = 1.0, 3.0, 4.0
    floors = Floors(each_time(times), np.full((1, 2, 2), 0.25), np.array([1]), 2, 8)
    whole = least_step(floors)
    assert whole is not None
    assert whole.lower_bound_s == pytest.approx(0.25 + 8 * 3, rel=1e-3)
    early = least_step(floors, upto_s=24.1)
    assert early is not None
    assert 8 * 2 <= early.lower_bound_s <= 24.1  # the work of both on two devices, and what is known
    assert least_step(floors, upto_s=10.0) is None  # a stage alone takes longer
