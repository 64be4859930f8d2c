"""A bound below every pipeline that is searched, whatever its schedule: what no order of tasks can save.

A stage does all of its work of B microbatches, t_s each, and none before the first microbatch came through the stages
before it:

    T >= max_s ( Σ_{r < s} a_r + B · t_s )

with a_r the least seconds that a forward takes through stage r. Zero-bubble schedules come close to it; what whole
backwards add on the way back is left out. The least such T over slicings is found by bisection: T is possible if a
slicing leaves room for what comes before,

    H(s, k, d) = max over j, m of  min( T - B · t(s, k, j, m),  H(s-1, j+1, d - n_m) - a(m, k, j) )  >= 0.

Where devices share cores, stages that wait lend theirs, and all work on all cores is the bound (`stages.Sharing`).

In: floors t[s, m, k, j] as in `stages.py`, a[m, k, j], submesh sizes, B. Out: a `StageChoice` whose `lower_bound_s` is
proven, and whose stages are as fast within a tolerance.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.pipelines.slicings import Array, Ints, Listed, Slicings, Spans, Stages, Times, is_barred, reach, slicings
from planner.pipelines.stages import StageChoice
from planner.solvers.large.compiled import compiled

STEPS = 40
"""Bisections at most; far fewer are needed."""


@dataclass(frozen=True)
class Floors:
    """What slices take at least, and what they are put on.

    Attributes:
      times: of slices as stages.
      through_s: [M, L, L]: a forward of one microbatch, at least.
      sizes: [M] devices per submesh.
      devices, microbatches: in all.
      exact_stages: if given, so many stages.
      spans: as in `stages.construct`.
    """

    times: Times
    through_s: Array
    sizes: NDArray[np.int64]
    devices: int
    microbatches: int
    exact_stages: int | None = None
    spans: Spans | None = None


def forward_between_s(sums_s: Array, starts: Ints) -> Array:
    """Seconds below every forward of a slice, [submesh, first, last], of layers or groups of them that begin at some:
    the least of any mesh. `sums_s`: over the layers before, [submesh, mesh, layer + 1]."""
    found = np.full((len(sums_s), len(starts), len(starts)), np.inf)
    ends = np.append(starts[1:], sums_s.shape[2] - 1)
    for own in np.swapaxes(sums_s, 0, 1):
        found = np.minimum(found, own[:, ends][:, None] - own[:, starts][:, :, None])
    return np.maximum(found, 0.0)


def least_work(floors: Floors) -> StageChoice | None:
    """The slicing with the least work of all devices: as fast as if none ever waited."""
    return _least_work(floors, slicings(floors.times, floors.sizes, floors.devices, floors.spans))


def _least_work(floors: Floors, some: Slicings) -> StageChoice | None:
    found = some.least_sum(np.inf, floors.exact_stages, floors.sizes / floors.devices)
    if found is None:
        return None
    least_s = floors.microbatches * found[0]
    return StageChoice(found[1], least_s, least_s, 1, 0)


def least_step(floors: Floors, *, upto_s: float = np.inf, tolerance: float = 5e-4) -> StageChoice | None:
    """See the module.

    Args:
      floors: what slices take.
      upto_s: seconds of a step that is known; a bound above it is of no use, and not looked for.
      tolerance: how much lower than the truth the bound may be.

    Returns:
      None if no slicing is possible within `upto_s`.
    """
    some = slicings(floors.times, floors.sizes, floors.devices, floors.spans, upto_s / floors.microbatches)
    work = _least_work(floors, some)
    if work is None:
        return None
    low, stages = work.lower_bound_s, work.stages
    high = max(low, _total_s(floors, stages))
    for _ in range(STEPS):
        if high <= low * (1 + tolerance) or low >= upto_s:
            break
        middle = low * (1 + tolerance) if low * (1 + 2 * tolerance) > high else (low * high) ** 0.5
        found = _within(floors, some, middle)
        if found is None:
            low = middle
        else:
            high, stages = _total_s(floors, found), found
    return StageChoice(stages, high, min(low, high, upto_s), 0, 0)


def _total_s(floors: Floors, stages: Stages) -> float:
    """The bound of one slicing."""
    before, most = 0.0, 0.0
    for n, (k, j, m) in enumerate(stages):
        most = max(most, before + floors.microbatches * floors.times.of(len(stages) - 1 - n, m, k, j))
        before += float(floors.through_s[m, k, j])
    return most


def _within(floors: Floors, some: Slicings, limit_s: float) -> Stages | None:
    """Stages whose bound is within a limit."""
    count, _, layers = some.shape
    room = np.full((2, count + 1, layers + 1, some.devices + 1), -np.inf)
    room[:, 0, layers, 0] = np.inf
    back = some.no_way_back()
    _most_room(some.listed, floors.microbatches, limit_s, floors.through_s, some.sizes, some.within, room, back)
    s = int(np.argmax(room[0, :, 0, some.devices])) if floors.exact_stages is None else floors.exact_stages
    return None if room[0, s, 0, some.devices] < 0 else some.traced(back, s)


@compiled
def _most_room(  # noqa: PLR0913  (a compiled loop)
               listed: Listed, microbatches: int, limit_s: float, through_s: Array, sizes: NDArray[np.int64],
               within: Spans, room: Array, back: NDArray[np.int32]) -> None:
    """`room[0, s, k, d]`: the most seconds that may pass before s stages of layers from k on, on d devices, begin;
    where there are none, it stays as it is; `room[1]`: with a first stage that shares no node with the one before
    it."""
    stages, layers, submeshes = room.shape[1] - 1, room.shape[2] - 1, len(sizes)
    for s in range(stages):
        counts, places = reach(room[0, s] >= 0)
        counts_alone, places_alone = reach(room[1, s] >= 0)
        for m in range(submeshes):
            n, span, alone = sizes[m], within[m], within[m, 4]
            count, place = (counts_alone, places_alone) if alone else (counts, places)
            free = span[2] >= 0
            for k in range(layers):
                row = (s * submeshes + m) * layers + k
                for e in range(listed.start[row], listed.start[row + 1]):
                    j, own = listed.last[e], limit_s - microbatches * listed.seconds[e]
                    if own < 0:
                        continue
                    for at in range(count[j + 1]):
                        d = n + place[j + 1, at]
                        if d > span[1]:
                            break
                        left = min(own, room[alone, s, j + 1, d - n] - through_s[m, k, j])
                        if left < 0 or left <= room[1 if free else 0, s + 1, k, d] or is_barred(d, n, span):
                            continue
                        for into in range(2 if free else 1):
                            if left > room[into, s + 1, k, d]:
                                room[into, s + 1, k, d] = left
                                back[into, s + 1, k, d, 0], back[into, s + 1, k, d, 1] = j, m
