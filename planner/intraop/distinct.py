"""Which slices of a sequence of layers are alike, so that each is composed once: those of equal classes in equal order.

A model of L layers has L²/2 slices, but where layers repeat most are the same but for where they begin: of n equal
layers between others there are some n for each layer that differs, not n². In: a class per layer. Out: `Slices`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Behind:
    """Slices of one length whose last layers are of one class: the slices without that layer, `which` of those of their
    length and `shorter` of all; those with it, `place` of those of their length and `numbers` of all."""

    kind: int
    which: Ints
    shorter: Ints
    place: Ints
    numbers: Ints


@dataclass(frozen=True)
class Level:
    """Distinct slices of one length.

    Attributes:
      first: number of the first of them; they follow each other.
      starts: per slice, the first layer of one such slice.
      shorter: per slice, the number of the one without its last layer (-1: it has one layer alone).
      behind: the same by the class of their last layer.
    """

    first: int
    starts: Ints
    shorter: Ints
    behind: tuple[Behind, ...]

    @property
    def numbers(self) -> slice:
        return slice(self.first, self.first + len(self.starts))


@dataclass(frozen=True)
class Slices:
    """`at[i, j]`: the number of slice [i..j] (inclusive), equal for slices that are alike; -1 where i > j. `levels[n]`
    has those of n + 1 layers; `kinds`: the class of each layer."""

    at: Ints
    levels: tuple[Level, ...]
    shorter: Ints
    kinds: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.shorter)

    def spread(self, values: NDArray[np.float64], firsts: Ints, lasts: Ints) -> NDArray[np.float64]:
        """What distinct slices have, [number], of those that begin and end at some layers, [first, last]; infinite
        where the first comes after the last."""
        return np.append(values, np.inf)[self.at[firsts[:, None], lasts]]

    def largest(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Per distinct slice, the largest of what its layers have, [layer]."""
        found = np.zeros(len(self))
        for n, level in enumerate(self.levels):
            last = values[level.starts + n]
            found[level.numbers] = np.maximum(last, found[level.shorter]) if n else last
        return found


def distinct_slices(classes: Sequence[int]) -> Slices:
    """Number the distinct slices, the shorter first, of a length those first that begin first."""
    kinds = np.array(classes, dtype=np.int64)
    count, width = len(kinds), int(kinds.max(initial=0)) + 1
    at = np.full((count, count), -1, dtype=np.int64)
    levels: list[Level] = []
    first = 0
    before = np.full(count, -1, dtype=np.int64)  # per start, the slice shorter by its last layer
    for n in range(count):
        begin = np.arange(count - n)
        _, starts, which = np.unique((before[begin] + 1) * width + kinds[n:], return_index=True, return_inverse=True)
        order = np.argsort(starts)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        at[begin, begin + n] = first + rank[which]
        begins, shorter = starts[order], before[starts[order]]
        shortest = levels[-1].first if levels else 0
        levels.append(Level(first, begins, shorter, tuple(_behind(kinds[begins + n], shorter, shortest, first))))
        before = at[begin, begin + n]
        first += len(starts)
    return Slices(at, tuple(levels), np.concatenate([level.shorter for level in levels]), tuple(classes))


def _behind(last: Ints, shorter: Ints, shortest: int, first: int) -> Iterator[Behind]:
    """Slices by the class of their last layer; `shortest`, `first`: the numbers of the first slice that is shorter by
    one, and of the first of these."""
    for kind in dict.fromkeys(last.tolist()):
        mine = np.flatnonzero(last == kind)
        which = np.maximum(shorter[mine] - shortest, 0)  # layers alone begin with nothing
        yield Behind(kind, which, shorter[mine], mine, first + mine)
