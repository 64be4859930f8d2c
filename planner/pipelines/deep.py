"""Stages of very deep models: looked for at few layers first, and bounded by what slices near them take at least.

Of a model of many layers stages begin at every n-th layer first, then at every n/2-th near where the best ones begin,
and so on. Stages have n layers at least. No slicing of those takes less than the bound on cells of n layers: a stage
from one cell to another takes no less than the fastest slice that begins in the one and ends in the other. Cells lose
up to n layers a stage, so the slowest stage is bounded on layers as well: within a time t, the stages on the last d
devices begin at

    f(s, d) = min over m of  g(s, m, f(s-1, d - n_m))
    g(s, m, x) = min over j >= x - 1 of  min{k: t(s, m, k, j) <= t}

at the earliest, and no pipeline is that fast where f(s, all) is above 0 for all s.

In: `Times` of all layers. Out: `StageChoice`s; `Floors` of cells; seconds.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from planner.pipelines.bound import Floors
from planner.pipelines.slicings import Array, Ints, Spans, Times, in_units, is_barred
from planner.pipelines.stages import StageChoice
from planner.solvers.large.compiled import compiled

STARTS = 192
"""Layers that stages may begin at, at most, when all are looked at. [chosen: a second of work with 64 devices]"""


def spacing(allowed: NDArray[np.bool_]) -> int:
    """Of so many layers only one may begin a stage at first, for slices that are allowed, [first, last]."""
    starts, found = int(allowed.any(axis=1).sum()), 1
    while starts > STARTS * found:
        found *= 2
    return found


def at_cells(seconds: Array, every: int) -> Array:
    """Of slices, [..., first, last], those of whole cells."""
    layers = int(seconds.shape[-1])
    starts: Ints = np.arange(0, layers, every, dtype=np.int64)
    return seconds[..., starts[:, None], np.append(starts[1:], layers) - 1]


def coarse_to_fine(times: Times, every: int, best: Callable[[Times], StageChoice | None]) -> StageChoice | None:
    """The stages that `best` finds, see the module. Where it finds none at first, more layers are looked at. Nothing is
    proven by what is left out."""
    layers = len(times.at)
    starts = np.arange(0, layers, every)
    found = _named(best(_beginning(times, starts)), starts, layers)
    while every > 1:
        every //= 2
        if found is None:
            starts = np.arange(0, layers, every)
        else:
            cuts = np.array([first for first, _, _ in found.stages[1:]], dtype=np.int64)
            near = (cuts[:, None] + every * np.arange(-2, 3)).ravel()
            starts = np.unique(np.append(near[(near > 0) & (near < layers)], 0))
        finer = _named(best(_beginning(times, starts)), starts, layers)
        if finer is not None and (found is None or finer.total_s < found.total_s):
            found = finer
    return found if found is None else replace(found, lower_bound_s=0.0)


def of_cells(floors: Floors, every: int) -> Floors:
    """The floors of stages from cell to cell."""
    times, layers = floors.times, len(floors.times.at)
    cells, known = -(-layers // every), dict[tuple[int, bytes], Array]()
    seconds = np.full((*times.seconds.shape[:2], cells * cells), np.inf)
    for flight in np.unique([*times.flights, times.alone]):
        for m in np.unique(times.space):
            key = int(m), times.seconds[flight, m].tobytes()  # few numbers in flight differ in their bounds
            if key not in known:
                known[key] = _least(times.seconds[flight, m][times.at] + times.more_s[m], times.at, every).ravel()
            seconds[flight, m] = known[key]
    through = np.array([_least(own, times.at, every) for own in floors.through_s])
    begins = np.arange(0, layers, every)
    at: Ints = np.arange(cells * cells, dtype=np.int64).reshape(cells, cells)
    return replace(floors, through_s=np.where(np.isfinite(through), through, 0.0), times=times._replace(
        seconds=seconds, at=at, more_s=np.zeros((times.more_s.shape[0], cells, cells)),
        extra_s=np.minimum.reduceat(times.extra_s, begins, axis=1)))


def least_slowest_s(floors: Floors, low_s: float, upto_s: float, tolerance: float = 5e-4) -> float:
    """Seconds of a step that all microbatches take through the slowest stage, at least, up to `tolerance` below that;
    `low_s` where it is less, `upto_s` where it is more."""
    times = floors.times
    usable = np.array([bool(np.isfinite(times.seconds[:, m]).any()) for m in times.space])
    sizes, devices, within = in_units(floors.sizes, floors.devices, floors.spans, usable)
    alike = _alike(times)
    while low_s * (1 + tolerance) < upto_s:
        middle = low_s * (1 + tolerance) if low_s * (1 + 2 * tolerance) > upto_s else (low_s * upto_s) ** 0.5
        begins = np.empty((len(times.flights), len(times.space), len(times.at) + 1), dtype=np.int64)
        for s, m in np.ndindex(begins.shape[:2]):
            begins[s, m] = begins[alike[s, m], m] if alike[s, m] < s else _earliest(
                times, s, m, middle / floors.microbatches)
        first = np.full((2, len(times.flights) + 1, devices + 1), len(times.at) + 1, dtype=np.int64)
        first[:, 0, 0] = len(times.at)
        _cover(begins, sizes, within, first)
        there = first[0, 1:, devices] if floors.exact_stages is None else first[0, floors.exact_stages, devices]
        low_s, upto_s = (low_s, middle) if (there == 0).any() else (middle, upto_s)
    return low_s


def as_layers(choice: StageChoice | None, layers: int, every: int) -> StageChoice | None:
    """A choice of cells as one of the layers that begin them."""
    return _named(choice, np.arange(0, layers, every), layers)


def _beginning(times: Times, starts: Ints) -> Times:
    """Those of stages that begin at some layers, which count as first and last."""
    lasts = np.append(starts[1:], len(times.at)) - 1
    both = np.ix_(starts, lasts)
    return times._replace(at=times.at[both], more_s=times.more_s[:, both[0], both[1]], extra_s=times.extra_s[:, starts])


def _named(choice: StageChoice | None, starts: Ints, layers: int) -> StageChoice | None:
    if choice is None:
        return None
    lasts = np.append(starts[1:], layers) - 1
    return replace(choice, stages=tuple((int(starts[a]), int(lasts[b]), m) for a, b, m in choice.stages))


def _least(values: Array, at: Ints, every: int) -> Array:
    """Per cell that slices begin in and cell before the one that what follows begins in, the least of their values;
    slices of fewer layers than a cell, and those that `at` leaves out, don't count."""
    cells = -(-len(at) // every)
    found = np.full((cells, cells), np.inf)
    _fill_least(values, at, every, found)
    return found


@compiled
def _fill_least(values: Array, at: Ints, every: int, found: Array) -> None:
    layers = len(at)
    for first in range(layers):
        for end in range(first + every, layers + 1):
            if at[first, end - 1] >= 0:
                a, b = first // every, (len(found) if end == layers else end // every) - 1
                found[a, b] = min(found[a, b], values[first, end - 1])


def _alike(times: Times) -> Ints:
    """[s, m]: the first s whose times on m are the same; of the last stage, which may be the only one, it is itself."""
    found = np.zeros((len(times.flights), len(times.space)), dtype=np.int64)
    for m, own in enumerate(times.space):
        seen: dict[bytes, int] = {}
        for s in range(1, len(times.flights)):
            found[s, m] = seen.setdefault(times.seconds[times.flights[s], own].tobytes(), s)
    return found


@compiled
def _earliest(times: Times, s: int, m: int, most_s: float) -> Ints:
    """g of the module: per layer x, the earliest that a stage begins within a time, of those that end before it or
    later."""
    layers, own = len(times.at), times.space[m]
    found = np.full(layers + 1, layers + 1, dtype=np.int64)
    for k in range(layers):
        for j in range(k, layers):
            at = times.at[k, j]
            if at < 0 or found[j + 1] <= k:
                continue
            flight = times.alone if s == 0 and k == 0 and j == layers - 1 else times.flights[s]
            if times.seconds[flight, own, at] + times.more_s[own, k, j] + times.extra_s[m, k] <= most_s:
                found[j + 1] = k
    for x in range(layers - 1, -1, -1):
        found[x] = min(found[x], found[x + 1])
    return found


@compiled
def _cover(begins: Ints, sizes: Ints, within: Spans, first: Ints) -> None:
    """f of the module, `first[0, s, d]`, one more than there are layers where there are no stages; `first[1]`: of those
    whose first shares no node with the stage before it."""
    none = begins.shape[2]
    for s in range(begins.shape[0]):
        for m in range(begins.shape[1]):
            n, span, alone = sizes[m], within[m], within[m, 4]
            for d in range(n, min(span[1], first.shape[2] - 1) + 1):
                x = first[alone, s, d - n]
                if x >= none or is_barred(d, n, span):
                    continue
                k = begins[s, m, x]
                first[0, s + 1, d] = min(first[0, s + 1, d], k)
                if span[2] >= 0:
                    first[1, s + 1, d] = min(first[1, s + 1, d], k)
