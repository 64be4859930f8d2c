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

from planner.costs.handing import HandOvers, handed_s, nothing_handed
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


def cell_ends(layers: int, every: int) -> tuple[Ints, Ints]:
    """The first and the last layer of each cell."""
    starts: Ints = np.arange(0, layers, every, dtype=np.int64)
    return starts, np.append(starts[1:], layers) - 1


def coarse_to_fine(times: Callable[[Ints], Times], starts: Ints, layers: int, every: int,
                   best: Callable[[Times], StageChoice | None]) -> StageChoice | None:
    """The stages that `best` finds, see the module. Where it finds none at first, more layers are looked at. Nothing is
    proven by what is left out.

    Args:
      times: of stages that begin at some layers, which count as first and last.
      starts: all layers that stages may begin at; of `layers`.
      every: of a cell.
      best: the best stages.
    """
    begin = starts if every == 1 else cell_ends(layers, every)[0]
    found = as_layers(best(times(begin)), begin, layers)
    if every == 1:
        return found
    while every > 1:
        every //= 2
        if found is None:
            begin = cell_ends(layers, every)[0]
        else:
            cuts = np.array([first for first, _, _ in found.stages[1:]], dtype=np.int64)
            near = (cuts[:, None] + every * np.arange(-2, 3)).ravel()
            begin = np.unique(np.append(near[(near > 0) & (near < layers)], 0))
        finer = as_layers(best(times(begin)), begin, layers)
        if finer is not None and (found is None or finer.total_s < found.total_s):
            found = finer
    return found if found is None else replace(found, lower_bound_s=0.0)


def of_cells(times: Times, every: int) -> Times:
    """What stages from cell to cell take at least."""
    layers = len(times.at)
    begins, known = cell_ends(layers, every)[0], dict[tuple[int, bytes], Array]()
    cells = len(begins)
    seconds = np.full((*times.seconds.shape[:2], cells * cells), np.inf)
    for flight in np.unique([*times.flights, times.alone]):
        for m in np.unique(times.space):
            key = int(m), times.seconds[flight, m].tobytes()  # few numbers in flight differ in their bounds
            if key not in known:
                known[key] = np.full((cells, cells), np.inf)
                _fill_least(times.seconds[flight, m], times.handed, m, times.at, every, known[key])
            seconds[flight, m] = known[key].ravel()
    at: Ints = np.arange(cells * cells, dtype=np.int64).reshape(cells, cells)
    return times._replace(seconds=seconds, at=at, handed=nothing_handed(len(times.handed.calls_s), cells),
                          extra_s=np.minimum.reduceat(times.extra_s, begins, axis=1))


def forward_of_cells(sums_s: Array, at: Ints, every: int) -> Array:
    """Seconds below every forward from cell to cell, [submesh, cell, cell], of sums [submesh, mesh, layer + 1]."""
    cells = -(-len(at) // every)
    found = np.full((len(sums_s), cells, cells), np.inf)
    for own, of in zip(sums_s, found, strict=True):
        _fill_least_forward(own, at, every, of)
    return np.where(np.isfinite(found), np.maximum(found, 0.0), 0.0)


def least_slowest_s(floors: Floors, low_s: float, upto_s: float, tolerance: float = 5e-4) -> float:
    """Seconds of a step that all microbatches take through the slowest stage, at least, up to `tolerance` below that;
    `low_s` where it is less, `upto_s` where it is more."""
    times = floors.times
    usable = np.array([bool(np.isfinite(times.seconds[:, m]).any()) for m in times.space])
    sizes, devices, within = in_units(floors.sizes, floors.devices, floors.spans, usable)
    alike, lengths = _alike(times), _lengths(times.at, times.seconds.shape[2])
    while low_s * (1 + tolerance) < upto_s:
        middle = low_s * (1 + tolerance) if low_s * (1 + 2 * tolerance) > upto_s else (low_s * upto_s) ** 0.5
        begins = np.empty((len(times.flights), len(times.space), len(times.at) + 1), dtype=np.int64)
        for s, m in np.ndindex(begins.shape[:2]):
            begins[s, m] = begins[alike[s, m], m] if alike[s, m] < s else _earliest(
                times, lengths, s, m, middle / floors.microbatches)
        first = np.full((2, len(times.flights) + 1, devices + 1), len(times.at) + 1, dtype=np.int64)
        first[:, 0, 0] = len(times.at)
        _cover(begins, sizes, within, first)
        there = first[0, 1:, devices] if floors.exact_stages is None else first[0, floors.exact_stages, devices]
        low_s, upto_s = (low_s, middle) if (there == 0).any() else (middle, upto_s)
    return low_s


def as_layers(choice: StageChoice | None, starts: Ints, layers: int) -> StageChoice | None:
    """A choice of groups of layers as one of the layers that begin them."""
    if choice is None:
        return None
    lasts = np.append(starts[1:], layers) - 1
    return replace(choice, stages=tuple((int(starts[a]), int(lasts[b]), m) for a, b, m in choice.stages))


@compiled
def _fill_least(seconds: Array, handed: HandOvers, m: int, at: Ints, every: int, found: Array) -> None:
    """Per cell that slices begin in and cell before the one that what follows begins in, the least seconds of slices on
    a submesh, [number]; those of fewer layers than a cell, and those that `at` leaves out, don't count."""
    layers = len(at)
    for first in range(layers):
        for end in range(first + every, layers + 1):
            if at[first, end - 1] >= 0:
                a, b = first // every, (len(found) if end == layers else end // every) - 1
                found[a, b] = min(found[a, b], seconds[at[first, end - 1]] + handed_s(handed, m, first, end - 1))


@compiled
def _fill_least_forward(sums_s: Array, at: Ints, every: int, found: Array) -> None:
    """The same of sums over the layers before, [mesh, layer + 1]."""
    layers = len(at)
    for first in range(layers):
        for end in range(first + every, layers + 1):
            if at[first, end - 1] >= 0:
                a, b = first // every, (len(found) if end == layers else end // every) - 1
                for t in range(len(sums_s)):
                    found[a, b] = min(found[a, b], sums_s[t, end] - sums_s[t, first])


def _alike(times: Times) -> Ints:
    """[s, m]: the first s whose times on m are the same; of the last stage, which may be the only one, it is itself."""
    found = np.zeros((len(times.flights), len(times.space)), dtype=np.int64)
    for m, own in enumerate(times.space):
        seen: dict[bytes, int] = {}
        for s in range(1, len(times.flights)):
            found[s, m] = seen.setdefault(times.seconds[times.flights[s], own].tobytes(), s)
    return found


@compiled
def _lengths(at: Ints, numbers: int) -> Ints:
    """Layers of each distinct slice; 0 of those that may not be stages."""
    found = np.zeros(numbers, dtype=np.int64)
    for k in range(len(at)):
        for j in range(k, len(at)):
            if at[k, j] >= 0:
                found[at[k, j]] = j - k + 1
    return found


@compiled
def _earliest(times: Times, lengths: Ints, s: int, m: int, most_s: float) -> Ints:
    """g of the module: per layer x, the earliest that a stage begins within a time, of those that end before it or
    later. What is handed over takes time as well, so that no stage is longer than the longest slice within it."""
    layers, own = len(times.at), times.space[m]
    found, longest, less_s = np.full(layers + 1, layers + 1, dtype=np.int64), 0, 0.0
    for k in range(layers):
        less_s = min(less_s, times.extra_s[m, k])
    for n in range(len(lengths)):
        if lengths[n] > longest and times.seconds[times.flights[s], own, n] + less_s <= most_s:
            longest = lengths[n]
    for j in range(layers):
        whole = s == 0 and j == layers - 1
        for k in range(0 if whole else max(0, j + 1 - longest), j + 1):
            at = times.at[k, j]
            if at < 0:
                continue
            flight = times.alone if whole and k == 0 else times.flights[s]
            if times.seconds[flight, own, at] + handed_s(times.handed, own, k, j) + times.extra_s[m, k] <= most_s:
                found[j + 1] = k
                break
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
