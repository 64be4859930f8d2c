"""Slices of layers that may be stages, listed, and the least sum of times of those that follow each other.

    F(s, k, d) = min over j, m of  t(s, k, j, m) + F(s-1, j+1, d - n_m)   where t <= t_max

s counts stages from the end. Of all slices few are fast enough to be a stage of a good pipeline, so these are listed
once, in order of (s, m, k, j), and then looked at as often as times are tried. Devices are counted in the largest
number that divides all submeshes on which some stage is possible.

In: `Times`, submesh sizes, where submeshes may lie. Out: `Slicings`.
"""

from dataclasses import dataclass
from math import gcd
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.costs.handing import HandOvers, handed_s, nothing_handed
from planner.solvers.large.compiled import compiled

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

Spans = NDArray[np.int64]
"""[submesh, (first, end, every, rest, whole)]: between which places a stage on it must lie, on a line that begins with
the last stage. Places `rest` over a multiple of `every` are edges of nodes: a stage has none inside it. Where `every`
is negative, it has none at its far end either, and shares a node with the stage before it, which then is not `whole`:
of whole nodes, wherever edges are (`places.place`)."""

Stages = tuple[tuple[int, int, int], ...]
"""(first layer, last layer inclusive, submesh) of each stage, in order."""


class Times(NamedTuple):
    """t(s, m, k, j): seconds of layers k..j on submesh m as the s-th stage from the end (s = 0 is the last), infinite
    where that is impossible: kept once for slices that are alike.

    Attributes:
      seconds: [flight, submesh, number]: of distinct slices, for microbatches in flight.
      at: [first, last]: the number of each slice; negative where there is none or it must not be a stage.
      handed: what each takes on top.
      flights: per s, the index of its microbatches in flight; `alone`: that of one stage of all layers.
      space: [m]: the index of the submesh: it may be there several times,
      extra_s: [m, first]: each with something more on top.
    """

    seconds: Array
    at: Ints
    handed: HandOvers
    flights: Ints
    alone: int
    space: Ints
    extra_s: Array

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of stages at most, submeshes, layers."""
        return len(self.flights), len(self.space), len(self.at)

    def of(self, s: int, m: int, k: int, j: int) -> float:
        """One of them."""
        if self.at[k, j] < 0:
            return float("inf")
        flight = self.alone if s == 0 and k == 0 and j == len(self.at) - 1 else self.flights[s]
        own = self.space[m]
        return float(self.seconds[flight, own, self.at[k, j]] + handed_s(self.handed, own, k, j) + self.extra_s[m, k])

    def only(self, m: int, stages: int) -> "Times":
        """Of one submesh, for so many stages at most."""
        return self._replace(flights=self.flights[:stages], space=self.space[m:m + 1], extra_s=self.extra_s[m:m + 1])


def each_time(seconds: Array) -> Times:
    """`Times` that are all there, [s, m, k, j]. Copied: loops are compiled for each layout of their arrays."""
    stages, submeshes, layers, _ = seconds.shape
    at: Ints = np.arange(layers * layers, dtype=np.int64).reshape(layers, layers)
    listed = np.array(seconds.reshape(stages, submeshes, layers * layers), order="C")
    return Times(listed, at, nothing_handed(submeshes, layers), np.arange(stages), 0, np.arange(submeshes),
                 np.zeros((submeshes, layers)))


class Listed(NamedTuple):
    """Slices of each (s, m, k), as one index: from `start` of that to `start` of the next, by their last layer; and
    their times."""

    start: Ints
    last: NDArray[np.int32]
    seconds: Array


@dataclass(frozen=True)
class Slicings:
    """What stages may be made of.

    Attributes:
      listed: see there.
      shape: numbers of stages at most, submeshes, layers.
      sizes: [M], in units of devices.
      devices: all, in such units.
      within: [M, ...], `Spans` in such units.
    """

    listed: Listed
    shape: tuple[int, int, int]
    sizes: Ints
    devices: int
    within: Spans

    def least_sum(self, t_max: float, exact: int | None, weights: Array | None = None) -> tuple[float, Stages] | None:
        """The slicing with the least Σ t whose stages are all within `t_max`, of `exact` stages if that is given; None
        if there is none. `weights`: per submesh, what its times count."""
        stages, submeshes, layers = self.shape
        best = np.full((2, stages + 1, layers + 1, self.devices + 1), np.inf)
        back = self.no_way_back()
        best[:, 0, layers, 0] = 0.0
        _least_sum(self.listed, np.ones(submeshes) if weights is None else weights, self.sizes, self.within, t_max,
                   best, back)
        s = int(np.argmin(best[0, :, 0, self.devices])) if exact is None else exact
        if not np.isfinite(best[0, s, 0, self.devices]):
            return None
        return float(best[0, s, 0, self.devices]), self.traced(back, s)

    def no_way_back(self) -> NDArray[np.int32]:
        """Room for where the best of `_least_sum` come from: the first stage's last layer and submesh."""
        stages, _, layers = self.shape
        return np.zeros((2, stages + 1, layers, self.devices + 1, 2), dtype=np.int32)

    def traced(self, back: NDArray[np.int32], count: int) -> Stages:
        """The stages that `back` leads to."""
        alone, k, d, chosen = 0, 0, self.devices, list[tuple[int, int, int]]()
        for s in range(count, 0, -1):
            j, m = (int(x) for x in back[alone, s, k, d])
            chosen.append((k, j, m))
            alone, k, d = int(self.within[m, 4]), j + 1, d - int(self.sizes[m])
        return tuple(chosen)


def slicings(times: Times, sizes: Ints, devices: int, spans: Spans | None = None, most_s: float = np.inf) -> Slicings:
    """List the slices that take finite time, and no more than `most_s`.

    Args:
      times: what they take.
      sizes: [M] devices per submesh.
      devices: total devices, all of which are used.
      spans: where on the line of devices each submesh may lie; None: anywhere.
    """
    stages, submeshes, layers = times.shape
    start = np.zeros(stages * submeshes * layers + 1, dtype=np.int64)
    _list(times, most_s, Listed(start, np.empty(0, dtype=np.int32), np.empty(0)))
    listed = Listed(start, np.empty(start[-1], dtype=np.int32), np.empty(start[-1]))
    _list(times, most_s, listed)
    each = np.diff(start[::layers]).reshape(stages, submeshes)
    return Slicings(listed, (stages, submeshes, layers), *in_units(sizes, devices, spans, np.asarray(each.any(axis=0))))


def in_units(sizes: Ints, devices: int, spans: Spans | None, usable: NDArray[np.bool_]) -> tuple[Ints, int, Spans]:
    """Sizes, devices and spans counted in the largest number of devices that divides all of them, submeshes that are
    not usable left aside."""
    within = anywhere(len(sizes), devices) if spans is None else spans
    unit = gcd(devices, *sizes[usable].tolist(), *within[usable, :4].ravel().tolist())
    return np.where(usable, sizes // unit, devices + 1), devices // unit, np.where(
        np.arange(5) < 4, within // unit, within)


def anywhere(submeshes: int, devices: int) -> Spans:
    """No limits to where submeshes lie."""
    return np.array([(0, devices, 0, 0, 0)] * submeshes, dtype=np.int64)


@compiled
def is_barred(end: int, size: int, span: Spans) -> bool:
    """Whether a stage must not end there, which is within the end of its span (see `Spans`), for compiled loops."""
    every, rest = span[2], span[3]
    if every == 0 or end - size < span[0]:
        return end - size < span[0]
    over = (end - rest) % abs(every)
    return over < size and (over > 0 or every < 0)


@compiled
def reach(there: NDArray[np.bool_]) -> tuple[Ints, NDArray[np.int32]]:
    """Per row, how many places hold, and which, ascending, for compiled loops: few of all, where most submeshes are
    large."""
    count = np.zeros(there.shape[0], dtype=np.int64)
    place = np.empty(there.shape, dtype=np.int32)
    for k in range(there.shape[0]):
        for d in range(there.shape[1]):
            if there[k, d]:
                place[k, count[k]] = d
                count[k] += 1
    return count, place


@compiled
def _list(times: Times, most_s: float, listed: Listed) -> None:
    """Fill in slices that take no more than `most_s`, or where there is no room for them, only count them."""
    layers, found, row = len(times.at), 0, 0
    for s in range(len(times.flights)):
        for m in range(len(times.space)):
            own = times.space[m]
            seconds = times.seconds[times.flights[s], own]
            for k in range(layers):
                extra_s = times.extra_s[m, k]
                for j in range(k, layers):
                    at = times.at[k, j]
                    if at < 0:
                        continue
                    more_s = handed_s(times.handed, own, k, j)
                    t = seconds[at] + more_s + extra_s
                    if s == 0 and k == 0 and j == layers - 1:
                        t = times.seconds[times.alone, own, at] + more_s + extra_s
                    if t <= most_s and t < np.inf:
                        if len(listed.last):
                            listed.last[found], listed.seconds[found] = j, t
                        found += 1
                row += 1
                listed.start[row] = found


@compiled
def _least_sum(listed: Listed, weights: Array, sizes: Ints, within: Spans, t_max: float, best: Array,
               back: NDArray[np.int32]) -> None:
    """`best[0, s, k, d]`: the least Σ t of layers from k on as s stages on d devices; `best[1]`: of those whose first
    shares no node with the stage before it; `back`: where that begins to come from."""
    stages, layers, submeshes = best.shape[1] - 1, best.shape[2] - 1, len(sizes)
    for s in range(stages):
        counts, places = reach(best[0, s] < np.inf)
        counts_alone, places_alone = reach(best[1, s] < np.inf)
        for m in range(submeshes):
            n, span, alone, weight = sizes[m], within[m], within[m, 4], weights[m]
            count, place = (counts_alone, places_alone) if alone else (counts, places)
            free = span[2] >= 0
            for k in range(layers):
                row = (s * submeshes + m) * layers + k
                for e in range(listed.start[row], listed.start[row + 1]):
                    j, t = listed.last[e], listed.seconds[e]
                    if t > t_max:
                        continue
                    t *= weight
                    for at in range(count[j + 1]):
                        d = n + place[j + 1, at]
                        if d > span[1]:
                            break
                        total = t + best[alone, s, j + 1, d - n]
                        if total >= best[1 if free else 0, s + 1, k, d] or is_barred(d, n, span):
                            continue
                        for into in range(2 if free else 1):
                            if total < best[into, s + 1, k, d]:
                                best[into, s + 1, k, d] = total
                                back[into, s + 1, k, d, 0], back[into, s + 1, k, d, 1] = j, m
