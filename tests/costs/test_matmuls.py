"""Matmuls by shape: grids are read between their points, tiles and waves are paid for whole."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.hardware import MatmulGrid, MemoryLevel, Tiling
from planner.costs.compute import traffic_s
from planner.costs.matmuls import MatmulSizes, grid_rates, matmuls_s, tile_shares
from tests.costs.machines import DEVICE

TILING = Tiling(10, ((128, 128, 1.0), (64, 64, 0.5)), 32, 0)
GRID = MatmulGrid("float32", (1, 4), (16, 256), (16, 64, 256), (16, 256), tuple(float(n + 1) for n in range(24)))


def sizes(*rows: tuple[float, float, float, float]) -> MatmulSizes:
    return MatmulSizes(*np.array(rows, dtype=float).T)


def test_full_tiles_in_full_waves_reach_the_peak():
    assert tile_shares(sizes((10, 128, 128, 320)), TILING) == pytest.approx(1.0)


def test_a_tile_at_the_edge_takes_as_long_as_a_full_one():
    whole, ragged = matmuls_s(sizes((1, 256, 256, 64), (1, 129, 129, 64)), "bfloat16",
                              dataclasses.replace(DEVICE, tiling=Tiling(1, ((128, 128, 1.0),), 32, 0)))
    assert ragged == pytest.approx(whole)


def test_a_wave_more_takes_a_wave_longer():
    one = dataclasses.replace(DEVICE, tiling=dataclasses.replace(TILING, shapes=((128, 128, 1.0),)))
    ten, eleven, twenty = matmuls_s(sizes((10, 128, 128, 64), (11, 128, 128, 64), (20, 128, 128, 64)), "bfloat16", one)
    assert eleven == pytest.approx(2 * ten) and twenty == pytest.approx(eleven)


def test_small_tiles_are_taken_where_large_ones_leave_units_idle():
    small = tile_shares(sizes((10, 64, 64, 32)), TILING)
    assert small == pytest.approx(0.5) and small > tile_shares(
        sizes((10, 64, 64, 32)), dataclasses.replace(TILING, shapes=((128, 128, 1.0),)))


def test_contracted_sizes_are_padded_and_fill_the_pipeline():
    plain = tile_shares(sizes((10, 128, 128, 33)), TILING)
    assert plain == pytest.approx(33 / 64)
    assert tile_shares(sizes((10, 128, 128, 64)), dataclasses.replace(TILING, fill=64)) == pytest.approx(0.5)


def test_a_grid_gives_its_own_rates_at_its_points():
    points = [(b, m, n, k) for b in GRID.batch for m in GRID.m for n in GRID.n for k in GRID.k]
    assert grid_rates(sizes(*points), GRID) == pytest.approx(GRID.flops_per_s)


@given(st.tuples(*(st.floats(1, 2000),) * 4))
def test_a_grid_stays_between_its_rates(shape):
    rate = float(grid_rates(sizes(shape), GRID)[0])
    assert min(GRID.flops_per_s) * (1 - 1e-9) <= rate <= max(GRID.flops_per_s) * (1 + 1e-9)


def test_halfway_in_logarithms_is_the_geometric_mean():
    low, middle, high = grid_rates(sizes((1, 16, 16, 16), (1, 16, 32, 16), (1, 16, 64, 16)), GRID)
    assert middle == pytest.approx((low * high) ** 0.5)


def test_the_grid_of_a_dtype_goes_before_tiles_and_peak():
    device = dataclasses.replace(DEVICE, matmuls=(GRID,), tiling=TILING)
    shape = sizes((1, 16, 16, 16))
    assert matmuls_s(shape, "float32", device) == pytest.approx(2 * 16**3 / GRID.flops_per_s[0])
    assert matmuls_s(shape, "bfloat16", device) == pytest.approx(
        2 * 16**3 / (float(tile_shares(shape, TILING)[0]) * device.flops_per_s("bfloat16")))
    assert matmuls_s(shape, "bfloat16", DEVICE) == pytest.approx(2 * 16**3 / DEVICE.flops_per_s("bfloat16"))


def test_what_fits_a_cache_moves_at_its_speed():
    device = dataclasses.replace(DEVICE, memory_bandwidth_bytes_per_s=1e3,
                                 caches=(MemoryLevel("L1", 10, 1e6), MemoryLevel("L2", 100, 1e4)))
    found = traffic_s(np.array([0.0, 10.0, 100.0, 1100.0]), device)
    assert found == pytest.approx([0.0, 10 / 1e6, 10 / 1e6 + 90 / 1e4, 10 / 1e6 + 90 / 1e4 + 1.0])
