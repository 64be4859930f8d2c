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

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from planner.pipelines.stages import Array, Spans, StageChoice, in_units, is_barred, least_sum, reach, traced
from planner.solvers.large.compiled import compiled

STEPS = 40
"""Bisections at most; far fewer are needed."""


@dataclass(frozen=True)
class Floors:
    """What slices take at least, and what they are put on.

    Attributes:
      times_s: [S, M, L, L], as in `stages.construct`.
      through_s: [M, L, L]: a forward of one microbatch, at least.
      sizes: [M] devices per submesh.
      devices, microbatches: in all.
      exact_stages: if given, so many stages.
      spans: as in `stages.construct`.
    """

    times_s: Array
    through_s: Array
    sizes: NDArray[np.int64]
    devices: int
    microbatches: int
    exact_stages: int | None = None
    spans: Spans | None = None


def least_work(floors: Floors) -> StageChoice | None:
    """The slicing with the least work of all devices: as fast as if none ever waited."""
    parts = (floors.sizes / floors.devices)[None, :, None, None]
    found = least_sum(floors.times_s * parts, floors.sizes, floors.devices, np.inf, floors.exact_stages,
                      floors.spans)
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
    floors = replace(floors, times_s=_within_s(floors, upto_s))
    work = least_work(floors)
    if work is None:
        return None
    low, stages = work.lower_bound_s, work.stages
    high = max(low, _total_s(floors, stages))
    for _ in range(STEPS):
        if high <= low * (1 + tolerance) or low >= upto_s:
            break
        middle = low * (1 + tolerance) if low * (1 + 2 * tolerance) > high else (low * high) ** 0.5
        found = _within(floors, middle)
        if found is None:
            low = middle
        else:
            high, stages = _total_s(floors, found), found
    return StageChoice(stages, high, min(low, high, upto_s), 0, 0)


def _within_s(floors: Floors, limit_s: float) -> Array:
    """The floors of slices that a step within a limit may have; of others infinite."""
    return np.where(floors.microbatches * floors.times_s <= limit_s, floors.times_s, np.inf)


def _total_s(floors: Floors, stages: tuple[tuple[int, int, int], ...]) -> float:
    """The bound of one slicing."""
    before, most = 0.0, 0.0
    for n, (k, j, m) in enumerate(stages):
        most = max(most, before + floors.microbatches * float(floors.times_s[len(stages) - 1 - n, m, k, j]))
        before += float(floors.through_s[m, k, j])
    return most


def _within(floors: Floors, limit_s: float) -> tuple[tuple[int, int, int], ...] | None:
    """Stages whose bound is within a limit."""
    times = _within_s(floors, limit_s)
    sizes, devices, within = in_units(times, floors.sizes, floors.devices, floors.spans)
    count, _, layers, _ = times.shape
    room = np.full((2, count + 1, layers + 1, devices + 1), -np.inf)
    back = np.zeros((2, count + 1, layers, devices + 1, 2), dtype=np.int32)
    room[:, 0, layers, 0] = np.inf
    _most_room(limit_s - floors.microbatches * times, floors.through_s, sizes, within, room, back)
    s = int(np.argmax(room[0, :, 0, devices])) if floors.exact_stages is None else floors.exact_stages
    return None if room[0, s, 0, devices] < 0 else traced(back, s, sizes, within)


@compiled
def _most_room(own_s: Array, through_s: Array, sizes: NDArray[np.int64], within: Spans, room: Array,
               back: NDArray[np.int32]) -> None:
    """`room[0, s, k, d]`: the most seconds that may pass before s stages of layers from k on, on d devices, begin;
    where there are none, it stays as it is; `room[1]`: with a first stage that shares no node with the one before it.
    `own_s`: what a stage's own work leaves of the limit."""
    stages, submeshes, layers, _ = own_s.shape
    for s in range(stages):
        counts, places = reach(room[0, s] >= 0)
        counts_alone, places_alone = reach(room[1, s] >= 0)
        for m in range(submeshes):
            n, span, alone = sizes[m], within[m], within[m, 4]
            count, place = (counts_alone, places_alone) if alone else (counts, places)
            for k in range(layers):
                for j in range(k, layers):
                    own, through = own_s[s, m, k, j], through_s[m, k, j]
                    if not own >= 0:
                        continue
                    for at in range(count[j + 1]):
                        d = n + place[j + 1, at]
                        if d > span[1]:
                            break
                        left = min(own, room[alone, s, j + 1, d - n] - through)
                        if left < 0 or left <= room[1 if span[2] >= 0 else 0, s + 1, k, d] or is_barred(d, n, span):
                            continue
                        for into in range(2 if span[2] >= 0 else 1):
                            if left > room[into, s + 1, k, d]:
                                room[into, s + 1, k, d] = left
                                back[into, s + 1, k, d, 0], back[into, s + 1, k, d, 1] = j, m
