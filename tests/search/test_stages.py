"""The stage dynamic program against exhaustive search."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.pipelines.slicings import each_time
from planner.pipelines.stages import Sharing, construct, even_s, pipeline_time_s


def exhaustive(times, sizes, devices, microbatches, exact=None, alone=1.0):
    """Every slicing of layers and assignment of submeshes that uses all devices."""
    stages_max, submeshes, layers, _ = times.shape
    best = np.inf
    for count in range(1, min(stages_max, layers) + 1):
        if exact is not None and count != exact:
            continue
        for cuts in product(*[range(1, layers)] * (count - 1)):
            if list(cuts) != sorted(set(cuts)):
                continue
            bounds = [0, *cuts, layers]
            for meshes in product(range(submeshes), repeat=count):
                if sum(sizes[m] for m in meshes) != devices:
                    continue
                t = [times[count - 1 - s, m, bounds[s], bounds[s + 1] - 1] for s, m in enumerate(meshes)]
                if np.isfinite(t).all():
                    sharing = Sharing([sizes[m] / devices for m in meshes], devices, alone) if alone > 1 else None
                    best = min(best, pipeline_time_s(t, microbatches, sharing))
    return best


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.sampled_from([2, 4]), st.sampled_from([1, 4, 32]),
       st.booleans())
def test_equals_exhaustive_search(seed, layers, devices, microbatches, holes):
    rng = np.random.default_rng(seed)
    sizes = np.array([1, 2, 4])[: 2 if devices == 2 else 3]
    times = rng.uniform(0.1, 2.0, size=(min(layers, devices), len(sizes), layers, layers))
    times = np.sort(times, axis=3)  # longer slices cost more
    times[:, :, np.tril_indices(layers, -1)[0], np.tril_indices(layers, -1)[1]] = np.inf
    if holes:
        times[rng.random(times.shape) < 0.3] = np.inf
    found = construct(each_time(times), sizes, devices, microbatches, tolerance=0.0)
    best = exhaustive(times, sizes, devices, microbatches)
    if found is None:
        assert best == np.inf
    else:
        assert found.total_s == pytest.approx(best)
        assert found.lower_bound_s <= best * (1 + 1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.sampled_from([1, 4, 32]), st.booleans())
def test_leaving_out_what_no_good_pipeline_has_changes_nothing(seed, layers, microbatches, holes):
    rng = np.random.default_rng(seed)
    times, sizes = rng.uniform(0.1, 2.0, size=(min(layers, 4), 3, layers, layers)), np.array([1, 2, 4])
    times[:, :, np.tril_indices(layers, -1)[0], np.tril_indices(layers, -1)[1]] = np.inf
    if holes:
        times[rng.random(times.shape) < 0.3] = np.inf
    known = even_s(each_time(times), sizes, 4, microbatches)
    best = exhaustive(times, sizes, 4, microbatches)
    assert known >= best * (1 - 1e-12)
    few = np.where(times <= known / microbatches * (1 + 1e-9), times, np.inf)
    assert exhaustive(few, sizes, 4, microbatches) == best


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.5))
def test_a_tolerance_is_kept_and_bounded(seed, tolerance):
    rng = np.random.default_rng(seed)
    times = np.triu(rng.uniform(0.5, 2.0, size=(4, 2, 4, 4)))
    times[times == 0] = np.inf
    sizes = np.array([1, 2])
    best = exhaustive(times, sizes, 4, 8)
    found = construct(each_time(times), sizes, 4, 8, tolerance=tolerance)
    assert found is not None
    assert found.lower_bound_s <= best * (1 + 1e-12) <= found.total_s * (1 + 1e-9)
    assert found.total_s <= best * (1 + tolerance) * (1 + 1e-9)


def test_exactly_that_many_stages():
    times = np.full((3, 1, 3, 3), np.inf)
    times[:, 0][:, np.triu(np.ones((3, 3), bool))] = 1.0
    found = construct(each_time(times), np.array([1]), 3, 2, exact_stages=3)
    assert found is not None
    assert [stage[:2] for stage in found.stages] == [(0, 0), (1, 1), (2, 2)]
    assert construct(each_time(times), np.array([1]), 3, 2, exact_stages=2) is None  # would leave a device idle


def test_on_shared_cores_waiting_stages_lend_theirs():
    """Two stages of 4 of 8 devices, 2 s and 4 s, five microbatches: 2 + 4 + 4 · 4 = 22 s on the path, and
    5 · (2 + 4) / 2 = 15 s of work. One of 15 / 22 devices works at a time: √(22 / 15) times as fast where one alone is
    √8 times as fast, and 22 / 15 times where it has all cores."""
    halves = [0.5, 0.5]
    assert pipeline_time_s([2.0, 4.0], 5) == 22
    assert pipeline_time_s([2.0, 4.0], 5, Sharing(halves, 8, 8**0.5)) == pytest.approx((22 * 15) ** 0.5)
    assert pipeline_time_s([2.0, 4.0], 5, Sharing(halves, 8, 8.0)) == pytest.approx(15)
    assert pipeline_time_s([2.0, 4.0], 5, Sharing(halves, 8, 1.0)) == 22
    # One microbatch over eight stages of one device each: seven of eight always wait, and one alone is 4 times as fast.
    assert pipeline_time_s([1.0] * 8, 1, Sharing([1 / 8] * 8, 8, 4.0)) == pytest.approx(2)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 4, 32]), st.floats(1.5, 4.0))
def test_on_shared_cores_the_least_work_bounds_all_and_is_not_lost_to_a_slower_path(seed, microbatches, alone):
    rng = np.random.default_rng(seed)
    times = np.triu(rng.uniform(0.1, 2.0, size=(4, 3, 4, 4)))
    times[times == 0] = np.inf
    sizes = np.array([1, 2, 4])
    best = exhaustive(times, sizes, 4, microbatches, alone=alone)
    work = exhaustive(times, sizes, 4, microbatches, alone=4.0)  # all cores: nothing but work counts
    found = construct(each_time(times), sizes, 4, microbatches, alone=alone)
    assert found is not None
    assert found.lower_bound_s == pytest.approx(work)
    assert found.lower_bound_s <= best * (1 + 1e-12) <= found.total_s * (1 + 1e-12)


def test_devices_count_in_the_units_that_stages_have():
    """Sizes that are all multiples of 24, and a submesh of 5 that nothing fits."""
    rng = np.random.default_rng(3)
    times = np.triu(rng.uniform(0.5, 2.0, size=(4, 2, 5, 5)))
    times[times == 0] = np.inf
    small = construct(each_time(times), np.array([1, 2]), 4, 8)
    large = construct(each_time(np.insert(times, 1, np.inf, axis=1)), np.array([24, 5, 48]), 96, 8)
    assert small is not None and large is not None and large.total_s == small.total_s
    assert [(k, j, {0: 0, 2: 1}[m]) for k, j, m in large.stages] == list(small.stages)
