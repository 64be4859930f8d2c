"""Stages that begin a node take their activations from another: against brute force, and as pipelines are priced."""

from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import planner
from planner.core.hardware import Cluster, Submesh
from planner.costs.transfer import cut_transfer_s, hand_over_s
from planner.pipelines.bound import Floors, least_step
from planner.pipelines.lines import columns
from planner.pipelines.places import place
from planner.pipelines.slicings import each_time
from planner.pipelines.stages import construct

SIZES = (1, 2, 4, 8)
"""On nodes of 4."""


def costs_of(hardware: Cluster, layers: int, random: np.random.Generator) -> Any:
    """What `columns` reads of `SliceCosts`, with random times."""
    spaces = [SimpleNamespace(part=0, submesh=Submesh(-(-size // 4), min(size, 4))) for size in SIZES]
    base = random.uniform(1, 3, (layers, len(spaces), layers, layers))
    length = np.arange(layers)[None, :] - np.arange(layers)[:, None] + 1
    prepared = SimpleNamespace(layers=range(layers), program=SimpleNamespace(kind="train"),
                               crossing_bytes=tuple(random.uniform(0, 3e10, layers)))
    return SimpleNamespace(hardware=hardware, spaces=spaces, times_s=base * length, prepared=prepared)


def brute(costs: Any, microbatches: int) -> tuple[float, float]:
    """The least Σ t + (B - 1) max t, and the least B max t, with stages where they are placed, none in more nodes than
    it must be."""
    layers, hardware, each = len(costs.prepared.layers), costs.hardware, costs.hardware.devices_per_node
    best, slowest = np.inf, np.inf
    for cuts in product((False, True), repeat=layers - 1):
        firsts = [0, *(n + 1 for n, cut in enumerate(cuts) if cut)]
        slices = list(zip(firsts, [*(f - 1 for f in firsts[1:]), layers - 1], strict=True))
        for chosen in product(range(len(SIZES)), repeat=len(slices)):
            sizes = [SIZES[m] for m in chosen]
            if sum(sizes) != hardware.device_count:
                continue
            lie = place(sizes, each)
            if any(len({d // each for d in devices}) > max(1, len(devices) // each) for devices in lie):
                continue
            times = []
            for s, (first, last) in enumerate(slices):
                t = costs.times_s[len(slices) - 1 - s, chosen[s], first, last]
                if s:
                    entering = costs.prepared.crossing_bytes[first]
                    t += 2 * (hand_over_s(entering, lie[s - 1], lie[s], hardware)
                              - cut_transfer_s(entering, sizes[s], hardware))
                times.append(t)
            best = min(best, sum(times) + (microbatches - 1) * max(times))
            slowest = min(slowest, microbatches * max(times))
    return best, slowest


@given(st.integers(2, 5), st.integers(1, 9), st.sampled_from([2, 3]), st.integers(0, 2**32 - 1))
def test_stages_and_their_bound_are_exact_where_nodes_are_far_apart(layers: int, microbatches: int, nodes: int,
                                                                    seed: int) -> None:
    hardware = planner.cluster("p3.16xlarge", nodes, 4)
    costs = costs_of(hardware, layers, np.random.default_rng(seed))
    best, slowest = brute(costs, microbatches)
    on = columns(costs, (0,))
    times = on.of(each_time(costs.times_s))
    found = construct(times, on.sizes, on.devices, microbatches, tolerance=0.0, spans=on.spans)
    if found is None:
        assert best == np.inf
        return
    assert found.total_s == pytest.approx(best)
    nothing = np.zeros((len(on.sizes), layers, layers))
    floors = Floors(times, nothing, on.sizes, on.devices, microbatches, spans=on.spans)
    bound = least_step(floors, tolerance=1e-6)
    assert bound is not None
    assert bound.lower_bound_s <= slowest * (1 + 1e-9) <= bound.total_s * (1 + 2e-9)
    assert bound.total_s <= bound.lower_bound_s * (1 + 1.1e-6)


def test_a_stage_that_shares_its_node_with_one_before_whole_nodes_takes_its_activations_from_those() -> None:
    assert place((2, 4, 2), 4) == [(0, 1), (4, 5, 6, 7), (2, 3)]
    assert place((2, 8, 2), 4) == [(8, 9), tuple(range(8)), (10, 11)]  # aligned to whole racks
    hardware = planner.cluster("p3.16xlarge", 2, 4)
    costs = costs_of(hardware, 3, np.random.default_rng(0))
    costs.times_s[:] = np.inf
    for stage, (size, layer) in enumerate(((2, 0), (4, 1), (2, 2))):
        costs.times_s[2 - stage, SIZES.index(size), layer, layer] = 1.0
    on = columns(costs, (0,))
    found = construct(on.of(each_time(costs.times_s)), on.sizes, on.devices, 1, spans=on.spans)
    assert found is not None
    size = costs.prepared.crossing_bytes[2]
    far = 2 * (hand_over_s(size, range(4, 8), range(2, 4), hardware) - cut_transfer_s(size, 2, hardware))
    assert far > 0 and found.total_s == pytest.approx(3 + far)


def test_places_fall_back_where_a_stage_would_be_in_two_nodes() -> None:
    assert place((2, 4, 2), 8) == [(0, 1), (2, 3, 4, 5), (6, 7)]
    assert place((4, 8, 4), None) == [(8, 9, 10, 11), tuple(range(8)), (12, 13, 14, 15)]
    assert place((2, 4, 4, 2, 4), 8) == [(12, 13), (0, 1, 2, 3), (4, 5, 6, 7), (14, 15), (8, 9, 10, 11)]
