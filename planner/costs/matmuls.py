"""Time of matmuls by shape: from a measured grid where the device has one, else from how it cuts results into tiles.

A grid is read off linearly between its sizes, in logarithms of sizes and rates, and at its border outside. Tiles are
Roller's rTile (Zhu et al., OSDI'22, §3): the result is padded to whole tiles and the tiles to whole waves of units, the
contracted size to its step; a device's library takes the shape of tile that is fastest. Without either, every matmul
runs at the rate of large ones.

In: sizes of one device's share (arrays of one shape), dtype, `Device`. Out: seconds of arithmetic.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.core.hardware import Device, MatmulGrid, Tiling

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MatmulSizes:
    """`batch` products of (m, k) by (k, n), as arrays of one shape."""

    batch: Array
    m: Array
    n: Array
    k: Array

    @property
    def flops(self) -> Array:
        """A multiply-add counted as two."""
        return 2 * self.batch * self.m * self.n * self.k


def matmuls_s(sizes: MatmulSizes, dtype: str, device: Device) -> Array:
    """Seconds of arithmetic of each product on one device. See the module."""
    for grid in device.matmuls:
        if grid.dtype == dtype:
            return sizes.flops / grid_rates(sizes, grid)
    if device.tiling is not None:
        return sizes.flops / (tile_shares(sizes, device.tiling) * device.flops_per_s(dtype))
    return sizes.flops / device.flops_per_s(dtype)


def grid_rates(sizes: MatmulSizes, grid: MatmulGrid) -> Array:
    """FLOP/s of each product, between the measured ones."""
    axes = (grid.batch, grid.m, grid.n, grid.k)
    rates = np.log(np.array(grid.flops_per_s)).reshape([len(axis) for axis in axes])
    found = np.zeros_like(sizes.batch)
    places = [_place(axis, size) for axis, size in zip(axes, (sizes.batch, sizes.m, sizes.n, sizes.k), strict=True)]
    for corner in np.ndindex(2, 2, 2, 2):
        at = tuple(low + up for (low, _), up in zip(places, corner, strict=True))
        weight = np.prod([part if up else 1 - part for (_, part), up in zip(places, corner, strict=True)], axis=0)
        inside = tuple(np.minimum(i, len(axis) - 1) for i, axis in zip(at, axes, strict=True))
        found = found + weight * rates[inside]
    return np.exp(found)


def _place(axis: tuple[int, ...], size: Array) -> tuple[NDArray[np.int64], Array]:
    """Index of the measured size below each size, and how far it is to the next, from 0 to 1 in logarithms."""
    marks = np.log(np.array(axis, dtype=float))
    position = np.interp(np.log(np.maximum(size, 1.0)), marks, np.arange(len(axis)))
    low = np.floor(position).astype(np.int64)
    return low, position - low


def tile_shares(sizes: MatmulSizes, tiling: Tiling) -> Array:
    """Part of the peak that each product reaches with its best shape of tile."""
    depth = np.ceil(sizes.k / tiling.depth) * tiling.depth + tiling.fill
    rows, columns, shares = np.array(tiling.shapes, dtype=float).T.reshape(3, -1, *(1,) * sizes.batch.ndim)
    tiles = sizes.batch * np.ceil(sizes.m / rows) * np.ceil(sizes.n / columns)
    waves = np.ceil(tiles / tiling.units)
    done = sizes.batch * sizes.m * sizes.n * sizes.k
    return np.max(shares * done / (waves * tiling.units * rows * columns * depth), axis=0)
