"""Rates of matmuls by shape: small ones, narrow ones and batches of them reach far less than large square ones.

Shapes are the product of sizes in each dimension, a coarse grid first; the finer one follows if time is left for all of
it. Then the most doubtful shapes are timed again: those whose runs differ, and those slower than a smaller shape.

In: devices, sizes. Out: `core.hardware.MatmulGrid`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import isfinite, log
from statistics import median

import jax.numpy as jnp

from planner.core.hardware import MatmulGrid
from planner.errors import ProfileError
from planner.measure.fixed import FixedCosts
from planner.measure.pace import Allowance
from planner.measure.timing import NOISY, Devices, Reading, Times, repeated, time_on_all

_TIMED_S = 8e-3
"""How long a timed program should run: much longer than a call, and short enough for many shapes. [chosen]"""

_LONGEST_S = 0.15
"""Batches whose products would run longer than this are timed with fewer products."""

_ROOM_BYTES = 2e9
"""Operands and results of the steps of a turn. [chosen: a small part of any accelerator's memory]"""

_FIRST_GUESS = 1e9
"""FLOP/s of the smallest shape, before anything is known; a wrong guess costs one more run. [chosen]"""


@dataclass(frozen=True, slots=True)
class Shape:
    """`batch` products of (m, k) by (k, n)."""

    batch: int
    m: int
    n: int
    k: int

    @property
    def flops(self) -> int:
        """A multiply-add counted as two."""
        return 2 * self.batch * self.m * self.n * self.k

    def within(self, other: "Shape") -> bool:
        """Whether no dimension is larger than the other's."""
        return self.batch <= other.batch and self.m <= other.m and self.n <= other.n and self.k <= other.k


@dataclass(frozen=True, slots=True)
class Point:
    """FLOP/s of one device at a shape, and the relative spread of its runs."""

    rate: float
    spread: float


Points = dict[Shape, Point]


@dataclass(frozen=True, slots=True)
class GridReading:
    """A grid, and its best rate with how all of it was measured."""

    grid: MatmulGrid
    best: Reading

    def large_shares(self) -> list[float]:
        """Rates as parts of the best, of shapes whose every dimension is one of the two largest."""
        large = self.grid.m[-2:]
        shapes = _shapes(self.grid.m, self.grid.batch)
        return [rate / self.best.value for shape, rate in zip(shapes, self.grid.flops_per_s, strict=True)
                if shape.m in large and shape.n in large and shape.k in large]


@dataclass(frozen=True)
class MatmulTimer:
    """Times one shape after the other.

    Attributes:
      devices: all devices.
      dtype: of the operands and the result.
      fixed: what is subtracted: an operator's own fixed cost is priced beside its arithmetic.
      copies: steps of one turn of a timed loop, at most.
    """

    devices: Devices
    dtype: str
    fixed: FixedCosts
    copies: int = 1

    def point(self, shape: Shape, guess: float, allowance: Allowance) -> Point:
        """Time a shape.

        Args:
          shape: what to time.
          guess: FLOP/s that it may reach.
          allowance: time for it.

        Raises:
          ProfileError: the device gave no time above zero.
        """
        timed = shape
        if shape.batch > 1 and shape.flops / guess > _LONGEST_S:
            timed = replace(shape, batch=max(2, int(_LONGEST_S * guess / (shape.flops / shape.batch))))
            timed = replace(timed, batch=min(timed.batch, shape.batch))
        length = self._length(timed, timed.flops / guess + self.fixed.loop_s)
        times = self._times(timed, length, allowance)
        if length < self._length(timed, self._step_s(times, length)) / 3:  # far too short to tell from the call itself
            length = self._length(timed, self._step_s(times, length))
            times = self._times(timed, length, allowance)
        rate = timed.flops / self._step_s(times, length)
        if not (isfinite(rate) and rate > 0):
            raise ProfileError(f"a {self.dtype} matmul of {shape} took {times.seconds} seconds", "measure again")
        return Point(rate, times.spread)

    def _times(self, shape: Shape, length: int, allowance: Allowance) -> Times:
        lead = (shape.batch,) if shape.batch > 1 else ()
        inputs = [((*lead, shape.m, shape.k), self.dtype), ((*lead, shape.k, shape.n), self.dtype)]
        copies = self._copies(shape)
        return time_on_all(repeated(jnp.matmul, length, copies), inputs * copies, self.devices, repeats=5,
                           allowance=allowance)

    def _copies(self, shape: Shape) -> int:
        """Steps of a turn: as many as have room."""
        elements = shape.batch * (shape.m * shape.k + shape.k * shape.n + shape.m * shape.n)
        return max(1, min(self.copies, int(_ROOM_BYTES / (elements * jnp.dtype(self.dtype).itemsize))))

    def _step_s(self, times: Times, length: int) -> float:
        """Seconds of one product beyond fixed costs, which are never taken for more than three quarters of it."""
        step = (times.typical_s - self.fixed.call_s) / length - self.fixed.loop_s
        return max(step, times.typical_s / length / 4)

    def _length(self, shape: Shape, step_s: float) -> int:
        """How often a product is run, whole turns."""
        copies = self._copies(shape)
        return max(1, min(4096, round(_TIMED_S / step_s)) // copies) * copies


def matmul_grid(timer: MatmulTimer, sides: Sequence[int], batches: Sequence[int],
                allowance: Allowance) -> GridReading:
    """The grid of a dtype, as fine as there is time for.

    Args:
      timer: of the dtype.
      sides: sizes of m, n and k, ascending.
      batches: ascending from 1.
      allowance: time for all of it.

    Raises:
      ProfileError: a shape gave no time above zero.
    """
    grids = _finenesses(tuple(sides), tuple(batches))
    points: Points = {}
    start = allowance.clock()
    found = grids[0]
    for grid in grids:
        new = sorted((s for s in _shapes(*grid) if s not in points), key=lambda s: s.flops)
        if points and (allowance.clock() - start) / len(points) * len(new) > allowance.left_s():
            break
        for shape, part in allowance.each(new):
            points[shape] = timer.point(shape, _guess(points, shape), part)
        found = grid
    _again(points, timer, allowance)
    sides, batches = found
    grid = MatmulGrid(timer.dtype, batches, sides, sides, sides, tuple(points[s].rate for s in _shapes(*found)))
    how = (f"{len(points)} shapes of {timer.dtype} matmuls, {sides[0]} to {sides[-1]} in each dimension, batches of "
           f"{' and '.join(map(str, batches))}, less a small operator's fixed cost")
    return GridReading(grid, Reading(max(grid.flops_per_s), median(p.spread for p in points.values()), how))


def _finenesses(sides: tuple[int, ...], batches: tuple[int, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Grids from coarse to fine: every other size, then with batches, then every size."""
    coarse = sides[::-2][::-1] if len(sides) % 2 else (sides[0], *sides[2::2], sides[-1])
    coarse = tuple(sorted(set(coarse)))
    return [(coarse, batches[:1]), (coarse, batches), (sides, batches)]


def _shapes(sides: Sequence[int], batches: Sequence[int]) -> list[Shape]:
    """In the order of a `MatmulGrid`."""
    return [Shape(*sizes) for sizes in product(batches, sides, sides, sides)]


def _guess(points: Points, shape: Shape) -> float:
    """The rate of the shape that was timed and is nearest in size."""
    if not points:
        return _FIRST_GUESS
    return points[min(points, key=lambda s: abs(log(s.flops / shape.flops)))].rate


def _again(points: Points, timer: MatmulTimer, allowance: Allowance) -> None:
    """Time doubtful shapes once more, the most doubtful first; the faster of two counts: other programs add time."""
    doubts = {shape: _doubt(points, shape) for shape in points}
    for shape in sorted(doubts, key=lambda s: -doubts[s]):
        if doubts[shape] < NOISY or allowance.left_s() <= 0:
            return
        part = Allowance(allowance.clock() + min(1.0, allowance.left_s()), allowance.clock)
        points[shape] = max(points[shape], timer.point(shape, points[shape].rate, part), key=lambda p: p.rate)


def _doubt(points: Points, shape: Shape) -> float:
    """How far runs of a shape differ, or it falls behind a shape that it contains, relatively."""
    smaller = max(p.rate for s, p in points.items() if s.within(shape))
    return max(points[shape].spread, smaller / points[shape].rate - 1)
