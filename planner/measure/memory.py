"""How fast a device moves bytes, by how many it works on: the caches and what lies beyond them.

Passes over arrays of growing size give a curve of rates that falls at the end of each cache. Sizes with nearly the same
rate are a level: it holds the largest of them, and the last level is device memory. A size that shares its rate with no
other lies between two levels and belongs to neither.

In: devices, working sets. Out: `core.hardware.MemoryLevel`s, and the rate of device memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from planner.core.hardware import MemoryLevel
from planner.measure.fixed import FixedCosts
from planner.measure.pace import Allowance
from planner.measure.sizes import Sizes
from planner.measure.timing import Devices, Reading, repeated, time_on_all

_SAME = 0.7
"""Rates at least this part of a level's first are of the same level. [chosen: caches differ by more, runs by less]"""

_LEAST_PASSES = 6
"""Passes of one program, however large the arrays: the first also pays for fresh memory."""

_FLOAT = 4
"""Bytes of a float32."""


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """Caches, the smallest first, and the rate of device memory; `reading.value` is the latter."""

    caches: tuple[MemoryLevel, ...]
    reading: Reading


def memory_rates(devices: Devices, sizes: Sizes, fixed: FixedCosts, allowance: Allowance) -> MemoryReading:
    """Time scaling arrays: half of a working set is read, the other half written.

    Args:
      devices: all devices.
      sizes: working sets, and how much is moved.
      fixed: what is subtracted.
      allowance: time for all of them.
    """
    curve: list[tuple[int, float]] = []
    spreads: list[float] = []
    for size, part in allowance.each(sizes.working_sets):
        passes = max(_LEAST_PASSES, round(sizes.timed_bytes / size))
        times = time_on_all(repeated(lambda a: a * 1.0001, passes), [((size // (2 * _FLOAT),), "float32")], devices,
                            repeats=7, allowance=part)
        pass_s = max((times.typical_s - fixed.call_s) / passes - fixed.loop_s, times.typical_s / passes / 4)
        curve.append((size, size / pass_s))
        spreads.append(times.spread)
    caches, beyond = levels(curve)
    first, last = _size(sizes.working_sets[0]), _size(sizes.working_sets[-1])
    how = f"scaling float32 arrays, {first} to {last} read and written at a time"
    return MemoryReading(caches, Reading(beyond, median(spreads), how))


def levels(curve: Sequence[tuple[int, float]]) -> tuple[tuple[MemoryLevel, ...], float]:
    """(caches, bytes/s of what lies beyond them) of a curve of (bytes worked on, bytes/s), sizes ascending."""
    runs: list[list[tuple[int, float]]] = []
    for size, rate in curve:
        if runs and rate >= _SAME * runs[-1][0][1]:
            runs[-1].append((size, rate))
        else:
            runs.append([(size, rate)])
    *faster, last = runs
    beyond = median(rate for _, rate in last)
    kept = [run for run in faster if len(run) > 1]
    return tuple(MemoryLevel(f"level {n}", run[-1][0], median(rate for _, rate in run))
                 for n, run in enumerate(kept, start=1)), beyond


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"
