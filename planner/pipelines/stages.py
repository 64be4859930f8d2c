"""Stage construction: slice layers into pipeline stages and give each a submesh (Alpa, OSDI'22, §5.2).

Minimises  Σ_s t_s + (B - 1) · max_s t_s  over slices of the layers and submeshes that together use every device. For
a bound t_max on the slowest stage, a dynamic program finds the least Σ t_s:

    F(s, k, d) = min over j, m of  t(s, k, j, m) + F(s-1, j+1, d - n_m)   where t <= t_max

s counts stages from the end, so that under 1F1B the stage that starts at layer k holds min(s, B) microbatches: memory
limits are inside t (infinite where it does not fit). Of a range of bounds, from a to b, no slicing takes less than
the least Σ t_s within b and (B - 1) · a: ranges are halved as long as that is less than the best that was found.

Where devices share cores (`Device.alone` above 1), a stage that waits leaves its cores to the others, and the path of
the equation above takes less; never less than all work on all cores, Σ B · t_s · n_s / d of d devices (`Sharing`).

In: `Times`, submesh sizes, B. Out: `StageChoice` with a proven gap. It calls no solver and knows no
model.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from planner.costs.sharing import sharing_speed
from planner.pipelines.slicings import Array, Slicings, Spans, Times, anywhere, slicings

MANY = 1 << 24
"""Times × devices, beyond which slices that no good pipeline can have are left out first. [chosen: less is done in a
tenth of a second]"""


@dataclass(frozen=True)
class StageChoice:
    """The best slicing found.

    Attributes:
      stages: (first layer, last layer inclusive, submesh index) from first to last stage.
      total_s: Σ t + (B - 1) max t.
      lower_bound_s: proven for this cost array.
      tried, pruned: numbers of t_max values tried and skipped.
    """

    stages: tuple[tuple[int, int, int], ...]
    total_s: float
    lower_bound_s: float
    tried: int
    pruned: int


@dataclass(frozen=True)
class Sharing:
    """Cores that the devices of a pipeline share: the part of all devices that each stage has, how many devices there
    are, and `Device.alone`."""

    parts: Sequence[float]
    devices: int
    alone: float

    def time_s(self, path_s: float, work_s: float) -> float:
        """Seconds on shared cores of what takes `path_s` if every device keeps the speed that it has while all are
        busy, and `work_s` if all were."""
        return path_s if not work_s else path_s / sharing_speed(path_s / work_s, self.devices, self.alone)


def pipeline_time_s(stage_times_s: NDArray[np.float64] | list[float], microbatches: int,
                    sharing: Sharing | None = None) -> float:
    """Alpa's equation 2, Σ t + (B - 1) max t; faster on shared cores, which stages that wait leave to the others."""
    times = np.asarray(stage_times_s)
    path = float(times.sum() + (microbatches - 1) * times.max())
    if sharing is None:
        return path
    return sharing.time_s(path, microbatches * float(times @ np.asarray(sharing.parts)))


def construct(  # noqa: PLR0913  (options of one call, all named)
              times: Times, sizes: NDArray[np.int64], devices: int, microbatches: int, *, tolerance: float = 0.002,
              exact_stages: int | None = None, alone: float = 1.0, spans: Spans | None = None) -> StageChoice | None:
    """Find the best slicing.

    Args:
      times: of slices as stages; its `shape` bounds the number of stages.
      sizes: [M] devices per submesh.
      devices: total devices, all of which are used.
      microbatches: B.
      tolerance: bounds t_max closer than this ratio are tried as one; the answer's total is within it of the optimum,
        and `lower_bound_s` says so. 0 tries all.
      exact_stages: if given, use exactly that many stages.
      alone: `Device.alone`. Above 1, the stages with the least work in all, which is the bound as well, and those of
        the shortest path are found, and the faster are taken.
      spans: where on the line of devices each submesh may lie; None: anywhere.

    Returns:
      None if no slicing is possible.
    """
    most_s = np.inf
    stages, submeshes, layers = times.shape
    if alone <= 1 and stages * submeshes * layers**2 * devices > MANY:
        most_s = even_s(times, sizes, devices, microbatches, exact_stages, spans) / microbatches * (1 + 1e-9)
    some = slicings(times, sizes, devices, spans, most_s)
    finite = np.unique(some.listed.seconds)
    if finite.size == 0:
        return None
    if alone > 1:
        work = _least_work(some, times, sizes, devices, microbatches, exact_stages, alone)
        path = construct(times, sizes, devices, microbatches, tolerance=tolerance, exact_stages=exact_stages,
                         spans=spans)
        if work is None or path is None:
            return work
        return _faster(work, path, times, sizes, devices, microbatches, alone)
    low = _smallest_feasible(some, finite, exact_stages)
    if low is None:
        return None
    return _best_of(some, times, finite[low:], Wanted(microbatches, tolerance, exact_stages))


@dataclass(frozen=True)
class Wanted:
    """Microbatches, which bounds t_max are tried as one (see `construct`), how many stages if that is given."""

    microbatches: int
    tolerance: float
    exact: int | None


def _best_of(some: Slicings, times: Times, bounds: Array, wanted: Wanted) -> StageChoice:
    """The best slicing within any of the bounds t_max, which are ascending and all possible: ranges of them are halved,
    the one that may hold the best first, for Σ t within its largest is the least that any of the range has."""
    more = wanted.microbatches - 1
    groups = _groups(bounds, wanted.tolerance)
    best: StageChoice | None = None
    tried = 0

    def least_sum(group: int) -> float:
        nonlocal best, tried
        found = some.least_sum(float(bounds[groups[group][1]]), wanted.exact)
        assert found is not None
        tried += 1
        total = found[0] + more * max(_each_s(found[1], times))
        if best is None or total < best.total_s:
            best = StageChoice(found[1], total, 0.0, tried, 0)
        return found[0]

    def at_least(group: int, least: float) -> float:
        return least + more * float(bounds[groups[group][0]])

    least = least_sum(len(groups) - 1)
    assert best is not None
    floor, queue = np.inf, [(at_least(0, least), 0, len(groups) - 1, least)]
    while queue and queue[0][0] < best.total_s:
        bound, low, high, least = heapq.heappop(queue)
        if low == high:
            floor = min(floor, bound)
            continue
        middle = (low + high) // 2
        lower = least_sum(middle)
        heapq.heappush(queue, (at_least(low, lower), low, middle, lower))
        heapq.heappush(queue, (at_least(middle + 1, least), middle + 1, high, least))
    return StageChoice(best.stages, best.total_s, min(floor, best.total_s), tried, len(bounds) - tried)


def _groups(bounds: Array, tolerance: float) -> list[tuple[int, int]]:
    """First and last index of bounds that are tried as one."""
    found: list[tuple[int, int]] = []
    while not found or found[-1][1] + 1 < len(bounds):
        at = found[-1][1] + 1 if found else 0
        found.append((at, int(np.searchsorted(bounds, float(bounds[at]) * (1 + tolerance), side="right")) - 1))
    return found


def even_s(times: Times, sizes: NDArray[np.int64], devices: int, microbatches: int, exact_stages: int | None = None,
           spans: Spans | None = None) -> float:
    """Σ t + (B - 1) max t of a good slicing whose stages are all on submeshes of one kind, which is quick to find;
    infinite if there is none. Arguments as of `construct`; where a submesh costs more at some places, it is taken to
    cost that everywhere."""
    best, within = np.inf, anywhere(len(sizes), devices) if spans is None else spans
    for m, size in enumerate(sizes.tolist()):
        count, left = divmod(devices, size)
        first, end, every, *_ = within[m].tolist()
        fits = every == 0 or (every > 0 and every % size == 0)
        if left or count > len(times.flights) or exact_stages not in (None, count) or not fits or (first, end) != (
                0, devices):
            continue
        mine = slicings(times.only(m, count), np.ones(1, dtype=np.int64), count)
        found = mine.least_sum(np.inf, count)
        if found is None:
            continue
        low, high = found[0] / count, found[0]  # the slowest stage takes between the two
        best = min(best, found[0] + (microbatches - 1) * high)
        while high > low * 1.01:
            middle = (low * high) ** 0.5
            found = mine.least_sum(middle, count)
            low, high = (middle, high) if found is None else (low, middle)
            best = best if found is None else min(best, found[0] + (microbatches - 1) * high)
    return best


def _least_work(some: Slicings, times: Times, sizes: NDArray[np.int64], devices: int, microbatches: int,
                exact: int | None, alone: float) -> StageChoice | None:
    """The slicing with the least work on shared cores."""
    found = some.least_sum(np.inf, exact, sizes / devices)
    if found is None:
        return None
    least, stages = found
    total = _shared_s(stages, times, sizes, devices, microbatches, alone)
    return StageChoice(stages, total, microbatches * least, 1, 0)


def _faster(work: StageChoice, path: StageChoice, times: Times, sizes: NDArray[np.int64], devices: int,
            microbatches: int, alone: float) -> StageChoice:
    """Of the stages with the least work and those of the shortest path the faster ones on shared cores."""
    total = _shared_s(path.stages, times, sizes, devices, microbatches, alone)
    tried = work.tried + path.tried
    if total < work.total_s:
        return StageChoice(path.stages, total, work.lower_bound_s, tried, path.pruned)
    return replace(work, tried=tried, pruned=path.pruned)


def _shared_s(stages: Sequence[tuple[int, int, int]], times: Times, sizes: NDArray[np.int64], devices: int,
              microbatches: int, alone: float) -> float:
    parts = [float(sizes[m]) / devices for _, _, m in stages]
    return pipeline_time_s(_each_s(stages, times), microbatches, Sharing(parts, devices, alone))


def _each_s(stages: Sequence[tuple[int, int, int]], times: Times) -> list[float]:
    return [times.of(len(stages) - 1 - p, m, k, j) for p, (k, j, m) in enumerate(stages)]


def _smallest_feasible(some: Slicings, finite: Array, exact: int | None) -> int | None:
    """Index of the smallest t_max that allows any slicing (bisection: feasibility is monotone)."""
    if some.least_sum(finite[-1], exact) is None:
        return None
    low, high = 0, len(finite) - 1
    while low < high:
        middle = (low + high) // 2
        if some.least_sum(finite[middle], exact) is None:
            low = middle + 1
        else:
            high = middle
    return low
