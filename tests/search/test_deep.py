"""Stages of very deep models: against all slicings of layers, and the bound on cells below them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from planner.costs.handing import HandOvers, nothing_handed
from planner.pipelines.bound import Floors, forward_between_s, least_step
from planner.pipelines.deep import (
    as_layers,
    cell_ends,
    coarse_to_fine,
    forward_of_cells,
    least_slowest_s,
    of_cells,
    spacing,
)
from planner.pipelines.slicings import Times, each_time
from planner.pipelines.stages import StageChoice, construct

SIZES = np.array([1, 2, 4])


def times_of(layers: int, stages: int, every: int, random: np.random.Generator) -> Times:
    """Random layers on 1, 2 or 4 devices, less than evenly faster, some slices impossible; none of fewer than `every`
    layers."""
    work = np.concatenate([[0.0], np.cumsum(random.uniform(1, 2, layers))])
    slices = work[None, 1:] - work[:-1, None]
    found = np.stack([slices / size**0.9 for size in SIZES])[None] * random.uniform(1, 1.2, (stages, 3, layers, layers))
    found = np.where(random.random(found.shape) < 0.1, np.inf, found)
    length = np.arange(layers)[None, :] - np.arange(layers)[:, None] + 1
    times = each_time(found)
    return times._replace(at=np.where(length >= every, times.at, -1), extra_s=random.uniform(0, 0.2, (3, layers)),
                          handed=handed(layers, random))


def handed(layers: int, random: np.random.Generator) -> HandOvers:
    """Stages that pay for calls, for what they give back and for what enters them."""
    return HandOvers(random.uniform(0, 0.1, 3), random.uniform(0, 0.1, 3), random.uniform(1, 2, 3),
                     np.cumsum(random.integers(0, 3, layers + 1)).astype(float), random.uniform(0, 0.1, (3, layers)))


def beginning(times: Times) -> Callable[[NDArray[np.int64]], Times]:
    """Of stages that begin at some layers."""
    def of(starts: NDArray[np.int64]) -> Times:
        lasts = np.append(starts[1:], len(times.at)) - 1
        return times._replace(at=times.at[starts[:, None], lasts], extra_s=times.extra_s[:, starts],
                              handed=times.handed.beginning(starts))
    return of


def in_cells(floors: Floors, sums_s: NDArray[np.float64], every: int) -> Floors:
    return replace(floors, times=of_cells(floors.times, every),
                   through_s=forward_of_cells(sums_s, floors.times.at, every))


@given(st.integers(0, 2**32 - 1), st.integers(6, 17), st.sampled_from([2, 4]), st.sampled_from([1, 4, 32]))
def test_the_bound_on_cells_is_below_the_bound_on_layers(seed: int, layers: int, every: int, microbatches: int) -> None:
    random = np.random.default_rng(seed)
    times = times_of(layers, 4, every, random)
    sums_s = np.cumsum(random.uniform(0, 0.2, (3, 2, layers + 1)), axis=2)
    floors = Floors(times, forward_between_s(sums_s, np.arange(layers)), SIZES, 4, microbatches)
    exact, cells = least_step(floors, tolerance=1e-6), least_step(in_cells(floors, sums_s, every), tolerance=1e-6)
    if exact is None:
        return
    assert cells is not None
    assert 0 < cells.lower_bound_s <= exact.total_s * (1 + 1e-9)
    named = as_layers(cells, cell_ends(layers, every)[0], layers)
    assert named is not None
    assert [first for first, _, _ in named.stages][1:] == [last + 1 for _, last, _ in named.stages][:-1]
    assert (named.stages[0][0], named.stages[-1][1]) == (0, layers - 1)


@given(st.integers(0, 2**32 - 1), st.integers(2, 13), st.sampled_from([1, 2]), st.sampled_from([None, 1, 2]))
def test_the_least_slowest_stage_is_below_that_of_layers(seed: int, layers: int, every: int, count: int | None) -> None:
    random = np.random.default_rng(seed)
    times = times_of(layers, 4, every, random)
    spans = np.array([(0, 4, -2, 0, 0), (0, 4, 2, 0, 0), (0, 4, 0, 0, 1), (0, 4, 0, 0, 1)])
    times = times._replace(space=np.array([0, 0, 1, 2]), extra_s=times.extra_s[[0, 1, 1, 2]])
    sizes = SIZES[times.space]
    floors = Floors(times, np.zeros((4, layers, layers)), sizes, 4, 8, count, spans)
    exact = least_step(floors, tolerance=1e-6)
    found = least_slowest_s(floors, 1e-3, 1e3, 1e-6)
    if exact is None:
        return
    assert found <= exact.total_s * (1 + 1e-9)
    assert exact.lower_bound_s <= least_slowest_s(floors, exact.lower_bound_s, 1e3, 1e-6) <= exact.total_s * (1 + 1e-9)
    length = np.arange(layers)[None, :] - np.arange(layers)[:, None] + 1.0
    each = np.stack([np.where(length > 0, length, np.inf) / size for size in SIZES])
    longer = floors.times._replace(seconds=np.broadcast_to(each.reshape(1, 3, -1), times.seconds.shape).copy(),
                                   extra_s=np.zeros((4, layers)), handed=nothing_handed(3, layers))
    growing = Floors(longer, floors.through_s, sizes, 4, 8, count, spans)
    exact = least_step(growing, tolerance=1e-6)
    if exact is not None:  # where longer slices take longer, it is exact
        assert least_slowest_s(growing, 1e-3, 1e3, 1e-6) == pytest.approx(exact.total_s, rel=3e-6)


@given(st.integers(0, 2**32 - 1), st.integers(6, 17), st.sampled_from([2, 4]), st.sampled_from([1, 4, 32]))
def test_coarse_stages_get_finer_and_are_what_they_say(seed: int, layers: int, every: int, microbatches: int) -> None:
    times = times_of(layers, 4, every, np.random.default_rng(seed))

    def best(some: Times) -> StageChoice | None:
        return construct(some, SIZES, 4, microbatches, tolerance=0.0)

    exact, found = best(times), coarse_to_fine(beginning(times), np.arange(layers), layers, every, best)
    if exact is None or found is None:
        assert found is None
        return
    each = [times.of(len(found.stages) - 1 - n, m, k, j) for n, (k, j, m) in enumerate(found.stages)]
    assert found.total_s == pytest.approx(sum(each) + (microbatches - 1) * max(each))
    assert exact.total_s <= found.total_s * (1 + 1e-9)
    assert found.lower_bound_s == 0.0


def test_equal_layers_lose_little() -> None:
    layers, every = 256, 8
    slices = np.triu(np.arange(layers)[None, :] - np.arange(layers)[:, None] + 1.0)
    slices[:, -1] += 20  # a last layer as long as twenty
    seconds = np.stack([np.where(slices > 0, slices, np.inf) / size**0.95 for size in SIZES])
    times = each_time(np.broadcast_to(seconds, (4, *seconds.shape)))

    def best(some: Times) -> StageChoice | None:
        return construct(some, SIZES, 4, 16)

    exact, found = best(times), coarse_to_fine(beginning(times), np.arange(layers), layers, every, best)
    assert exact is not None and found is not None
    assert found.total_s <= exact.total_s * 1.004
    floors = Floors(times, np.zeros((3, layers, layers)), SIZES, 4, 16)
    below, cells = least_step(floors), least_step(in_cells(floors, np.zeros((3, 1, layers + 1)), every))
    assert below is not None and cells is not None
    assert below.lower_bound_s * (1 - 2 * every / 64) <= cells.lower_bound_s <= below.lower_bound_s


def test_few_layers_are_all_looked_at() -> None:
    assert spacing(np.ones((192, 192), dtype=bool)) == 1
    assert spacing(np.ones((193, 193), dtype=bool)) == 2
    assert spacing(np.ones((1537, 1537), dtype=bool)) == 16
    few = np.zeros((1537, 1537), dtype=bool)
    few[::100] = True
    assert spacing(few) == 1
