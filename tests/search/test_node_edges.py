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
from planner.pipelines.stages import construct

SIZES = (1, 2, 4, 8)
"""On two nodes of 4."""


def costs_of(hardware: Cluster, layers: int, random: np.random.Generator) -> Any:
    """What `columns` reads of `SliceCosts`, with random times."""
    spaces = [SimpleNamespace(part=0, submesh=Submesh(-(-size // 4), min(size, 4))) for size in SIZES]
    base = random.uniform(1, 3, (layers, len(spaces), layers, layers))
    length = np.arange(layers)[None, :] - np.arange(layers)[:, None] + 1
    prepared = SimpleNamespace(layers=range(layers), program=SimpleNamespace(kind="train"),
                               crossing_bytes=tuple(random.uniform(0, 3e10, layers)))
    return SimpleNamespace(hardware=hardware, spaces=spaces, times_s=base * length, prepared=prepared)


def brute(costs: Any, microbatches: int) -> tuple[float, float]:
    """The least Σ t + (B - 1) max t with stages one after the other, and with stages where they are placed."""
    layers, hardware = len(costs.prepared.layers), costs.hardware
    straight, placed = np.inf, np.inf
    for cuts in product((False, True), repeat=layers - 1):
        firsts = [0, *(n + 1 for n, cut in enumerate(cuts) if cut)]
        slices = list(zip(firsts, [*(f - 1 for f in firsts[1:]), layers - 1], strict=True))
        for chosen in product(range(len(SIZES)), repeat=len(slices)):
            sizes = [SIZES[m] for m in chosen]
            if sum(sizes) != hardware.device_count:
                continue
            ends = np.cumsum(sizes)
            one_by_one = [tuple(range(int(end) - n, int(end))) for n, end in zip(sizes, ends, strict=True)]
            for lie in (one_by_one, place(sizes)):
                if lie is one_by_one and any(n < 4 and devices[0] // 4 != devices[-1] // 4
                                             for n, devices in zip(sizes, lie, strict=True)):
                    continue  # over the edge of a node
                times = []
                for s, (first, last) in enumerate(slices):
                    t = costs.times_s[len(slices) - 1 - s, chosen[s], first, last]
                    if s and sizes[s] < hardware.devices_per_node:
                        size = costs.prepared.crossing_bytes[first]
                        edge = lie is not one_by_one or lie[s][0] % hardware.devices_per_node == 0
                        t += 2 * (hand_over_s(size, lie[s - 1], lie[s], hardware)
                                  - cut_transfer_s(size, sizes[s], hardware)) if edge else 0.0
                    times.append(t)
                total = sum(times) + (microbatches - 1) * max(times)
                straight, placed = (min(straight, total), placed) if lie is one_by_one else (
                    straight, min(placed, total))
    return straight, placed


@given(st.integers(2, 5), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_stages_are_the_best_where_nodes_are_far_apart(layers: int, microbatches: int, seed: int) -> None:
    hardware = planner.cluster("p3.16xlarge", 2, 4)
    costs = costs_of(hardware, layers, np.random.default_rng(seed))
    straight, placed = brute(costs, microbatches)
    on, below = (columns(costs, (0,), edges=edges) for edges in (True, False))
    found = construct(on.of(costs.times_s), on.sizes, on.devices, microbatches, tolerance=0.0, spans=on.spans)
    assert found is not None
    assert found.total_s == pytest.approx(straight)
    floors = Floors(below.of(costs.times_s), np.zeros((len(below.sizes), layers, layers)), below.sizes, below.devices,
                    microbatches, spans=below.spans)
    bound = least_step(floors, tolerance=1e-6)
    assert bound is not None
    assert bound.lower_bound_s <= placed * (1 + 1e-9)
