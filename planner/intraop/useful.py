"""The variants of slices that are of use: those that are faster or hold less than every other of their slice.

Whatever number of microbatches is in flight and whatever a device may hold, the fastest variant that fits is one of
those, and so is what holds least: a variant is left out where another is as fast, and keeps, saves, works with and
combines no more bytes.

In: what the variants of slices cost. Out: `Useful`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.intraop.frontier import PARTS
from planner.solvers.large.compiled import compiled

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Useful:
    """Variants of slices, one slice after the other, the fastest first.

    Attributes:
      start: where those of each slice start, [slice + 1].
      variant: which they are, [n].
      parts: [n, len(PARTS)].
      working_bytes: [n].
    """

    start: Ints
    variant: NDArray[np.int16]
    parts: Array
    working_bytes: Array

    def of(self, at: int) -> "Useful":
        """Those of one slice."""
        own = slice(int(self.start[at]), int(self.start[at + 1]))
        return Useful(self.start[at:at + 2] - own.start, self.variant[own], self.parts[own], self.working_bytes[own])

    def fitting(self, in_flight: int, limit_bytes: float) -> int | None:
        """The first that fits with that many microbatches in flight: of one slice, the fastest."""
        fits = np.flatnonzero(self.memory_bytes(in_flight) <= limit_bytes)
        return int(fits[0]) if len(fits) else None

    def step_s(self, microbatches: int) -> Array:
        """Seconds per microbatch, what is done once a step spread over them, [n]."""
        return self.parts[:, 0] + self.parts[:, 1] + self.parts[:, 2] / microbatches

    def memory_bytes(self, in_flight: int) -> Array:
        """Peak bytes per device with that many microbatches in flight, [n]: when activations are most, or when
        gradients are combined."""
        return self.parts[:, 3] + np.maximum(in_flight * self.parts[:, 4] + self.working_bytes, self.parts[:, 5])


class UsefulOf:
    """`Useful` of slices whose costs are told bit by bit, in the order of their numbers."""

    def __init__(self, microbatches: int, variants: int) -> None:
        """Of a step; of each slice."""
        self._microbatches, self._variants = microbatches, variants
        self._start, self._count = [np.zeros(1, dtype=np.int64)], 0
        self._variant, self._parts = np.empty(0, dtype=np.int16), np.empty((0, len(PARTS)))
        self._working = np.empty(0)

    def add(self, parts: Array, working: Array, state_out: Ints, possible: NDArray[np.bool_]) -> None:
        """Of the next slices what each variant costs by the state after it, [slice, variant, state, part] and [slice,
        variant, state], which of these it ends in, and whether there is such a variant at all, [slice, variant]."""
        self._grow(self._count + possible.size)
        ends, step_s = np.empty(len(possible), dtype=np.int64), np.empty(possible.shape)
        _fill_step_s(parts, state_out, possible, self._microbatches, step_s)
        self._count = _add(parts, working, state_out, (step_s, step_s.argsort(axis=1, kind="stable")),
                           (self._variant, self._parts, self._working), self._count, ends)
        self._start.append(ends)

    def found(self) -> Useful:
        """All that was told."""
        end = self._count
        return Useful(np.concatenate(self._start), self._variant[:end].copy(), self._parts[:end].copy(),
                      self._working[:end].copy())

    def _grow(self, least: int) -> None:
        """Make room."""
        more = 2 * least - len(self._variant)
        if least > len(self._variant):
            self._variant = np.concatenate([self._variant, np.zeros(more, dtype=np.int16)])
            self._parts = np.concatenate([self._parts, np.zeros((more, len(PARTS)))])
            self._working = np.concatenate([self._working, np.zeros(more)])


@compiled
def _fill_step_s(parts: Array, state_out: Ints, possible: NDArray[np.bool_], microbatches: int, step_s: Array) -> None:
    """`Useful.step_s` of each slice and variant, infinite where there is none."""
    for n in range(possible.shape[0]):
        for g in range(possible.shape[1]):
            own = parts[n, g, state_out[n, g]]
            step_s[n, g] = own[0] + own[1] + own[2] / microbatches if possible[n, g] else np.inf


@compiled
def _add(parts: Array, working: Array, state_out: Ints, sorted_s: tuple[Array, Ints],
         into: tuple[NDArray[np.int16], Array, Array], count: int, ends: Ints) -> int:
    """See `UsefulOf.add`; how many there are then, and after each slice, `ends`. `sorted_s`: seconds of a step, [slice,
    variant], and the variants of each slice by them (sorting and copying rows would take long to compile)."""
    (step_s, order), (variant, kept, kept_working) = sorted_s, into
    for n in range(step_s.shape[0]):
        first = count
        for rank in range(step_s.shape[1]):
            g = order[n, rank]
            if step_s[n, g] == np.inf:
                break
            own, work, better = parts[n, g, state_out[n, g]], working[n, g, state_out[n, g]], False
            for at in range(first, count):
                if kept[at, 3] <= own[3] and kept[at, 4] <= own[4] and kept[at, 5] <= own[5] and \
                        kept_working[at] <= work:
                    better = True
                    break
            if not better:
                variant[count], kept_working[count] = g, work
                for part in range(len(own)):
                    kept[count, part] = own[part]
                count += 1
        ends[n] = count
    return count
