"""Stages on several types of devices against brute force: every cut, every submesh, every order of the types."""

from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.hardware import Link, Submesh
from planner.core.mixed import mixed
from planner.costs.transfer import hand_over_s
from planner.pipelines.bound import Floors, least_step
from planner.pipelines.lines import columns, lines, placed_by_part
from planner.pipelines.slicings import each_time
from planner.pipelines.stages import construct
from tests.mixing.machines import cpus

SIZES = (1, 2)


def costs_of(counts: tuple[int, ...], layers: int, random: np.random.Generator, *, possible: float) -> Any:
    """What `columns` reads of `SliceCosts`: random times, some of them impossible, per part and submesh."""
    hardware = mixed([cpus(f"type {n}", count, link=1e9 / (n + 1)) for n, count in enumerate(counts)], Link(3e8, 1e-3))
    spaces = [SimpleNamespace(part=n, submesh=Submesh(1, size)) for n in range(len(counts)) for size in SIZES]
    base = random.uniform(1, 3, (layers, len(spaces), layers, layers))
    length = np.arange(layers)[None, :] - np.arange(layers)[:, None] + 1
    times = np.where(random.random(base.shape) < possible, base * length, np.inf)
    prepared = SimpleNamespace(layers=range(layers), program=SimpleNamespace(kind="train"),
                               crossing_bytes=tuple(random.uniform(0, 3e8, layers)))
    return SimpleNamespace(hardware=hardware, spaces=spaces, times_s=times, prepared=prepared)


def brute(costs: Any, line: tuple[int, ...], microbatches: int) -> tuple[float, list[tuple[float, ...]]]:
    """The least Σ t + (B - 1) max t, and the times of every pipeline that there is."""
    layers, hardware = len(costs.prepared.layers), costs.hardware
    best, found = np.inf, []
    for cuts in product((False, True), repeat=layers - 1):
        firsts = [0, *(n + 1 for n, cut in enumerate(cuts) if cut)]
        slices = list(zip(firsts, [*(f - 1 for f in firsts[1:]), layers - 1], strict=True))
        for chosen in product(range(len(costs.spaces)), repeat=len(slices)):
            parts = [costs.spaces[m].part for m in chosen]
            if tuple(dict.fromkeys(parts)) != line or sorted(parts, key=line.index) != parts:
                continue
            sizes = [costs.spaces[m].submesh.device_count for m in chosen]
            if any(sum(n for n, p in zip(sizes, parts, strict=True) if p == part) != hardware.parts[part].device_count
                   for part in line):
                continue
            lie = placed_by_part(sizes, parts, hardware)
            times = []
            for s, (first, last) in enumerate(slices):
                t = costs.times_s[len(slices) - 1 - s, chosen[s], first, last]
                if s and parts[s] != parts[s - 1]:  # over the link between parts, and not within one
                    size, within = costs.prepared.crossing_bytes[first], hardware.parts[parts[s]].intra_node
                    inside = size / sizes[s] / within.bandwidth_bytes_per_s + within.latency_s if \
                        sizes[s] < hardware.parts[parts[s]].devices_per_node else \
                        hand_over_s(size, lie[s], lie[s], hardware)
                    t += 2 * (hand_over_s(size, lie[s - 1], lie[s], hardware) - inside)
                times.append(t)
            if np.isfinite(times).all():
                found.append(tuple(times))
                best = min(best, sum(times) + (microbatches - 1) * max(times))
    return best, found


@given(st.sampled_from([(1, 1), (2, 1), (2, 2), (1, 2), (1, 1, 1), (2, 1, 1)]), st.integers(2, 4), st.integers(1, 9),
       st.floats(0.5, 1), st.integers(0, 2**32 - 1))
def test_stages_on_every_line_are_the_best_there_are(counts: tuple[int, ...], layers: int, microbatches: int,
                                                     possible: float, seed: int) -> None:
    costs = costs_of(counts, layers, np.random.default_rng(seed), possible=possible)
    for line in lines(costs.hardware):
        found = columns(costs, line)
        times = found.of(each_time(costs.times_s))
        choice = construct(times, found.sizes, found.devices, microbatches, tolerance=0.0, spans=found.spans)
        best, every = brute(costs, line, microbatches)
        assert (choice is None) == (not every)
        nothing = np.zeros((len(found.sizes), layers, layers))
        floors = Floors(times, nothing, found.sizes, found.devices, microbatches, spans=found.spans)
        below = least_step(floors, tolerance=1e-6)
        assert (below is None) == (not every)
        if choice is None or below is None:
            continue
        assert choice.total_s == pytest.approx(best)
        least = min(microbatches * max(t) for t in every)
        assert below.lower_bound_s <= least * (1 + 1e-9)
        assert below.lower_bound_s >= least * (1 - 1e-3)
        parts = [costs.spaces[int(found.space[c])].part for _, _, c in choice.stages]
        assert tuple(dict.fromkeys(parts)) == line


def test_lines_are_all_orders_of_all_parts_and_of_some() -> None:
    two = mixed([cpus("a", 1), cpus("b", 2)])
    three = mixed([cpus("a", 1), cpus("b", 2), cpus("c", 4)])
    assert lines(two) == ((0, 1), (1, 0)) and lines(cpus("a", 4)) == ((0,),)
    assert sorted(map(len, lines(three))) == [2] * 6 + [3] * 6


def test_devices_are_those_of_the_part() -> None:
    on = mixed([cpus("a", 4), cpus("b", 2)])
    assert placed_by_part([2, 1, 1, 2], [1, 0, 0, 0], on) == ((4, 5), (0,), (1,), (2, 3))
