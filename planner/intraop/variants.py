"""The variants that layers and slices are solved in: a price of memory, microbatches in flight, what is recomputed.

A layer is solved for each price and count in flight, and recomputed in each way: nothing of it, selected tensors, all.
A slice composes them in more ways at the same price: two ways mixed, a share of its layers each, evenly spread, or each
layer as is cheapest. Layers that are alike would otherwise all change their minds at one price, and where memory is
tight there is room between.

In: prices from the search. Out: which row of a layer's frontier a slice's variant uses at which position.
"""

from dataclasses import dataclass
from functools import cached_property
from math import floor

import numpy as np
from numpy.typing import NDArray

from planner.core.recomputation import Recompute

_NONE, _SELECTED, _ALL = Recompute

MIXTURES = ((_NONE, _ALL, 0.25), (_NONE, _ALL, 0.5), (_NONE, _ALL, 0.75), (_NONE, _SELECTED, 0.5),
            (_SELECTED, _ALL, 0.5))
"""Ways that are mixed in a slice, and the share of its layers that are recomputed in the second. [chosen]"""

PERIOD = 4
"""Positions after which the pattern of every share repeats."""

Pattern = tuple[Recompute, ...]
"""How the layer at each position is recomputed; of length `PERIOD`."""


@dataclass(frozen=True)
class Multipliers:
    """The variants a layer is solved in; index g below.

    Attributes:
      per_byte_s: price of a resident byte, in seconds of step time.
      in_flight: microbatches held; the price of a saved byte is `per_byte_s * in_flight`.
      recompute: how much of the layer's forward is run again in the backward pass instead of saving activations.
    """

    per_byte_s: tuple[float, ...]
    in_flight: tuple[int, ...]
    recompute: tuple[Recompute, ...]

    def __len__(self) -> int:
        return len(self.per_byte_s)

    @cached_property
    def ways(self) -> tuple[tuple[int, ...], ...]:
        """The rows of every price and count that is solved in all of the ways that any is, if those are several, in
        the order of `Recompute`."""
        rows: dict[tuple[float, int], dict[Recompute, int]] = {}
        for g, (price, count, way) in enumerate(zip(self.per_byte_s, self.in_flight, self.recompute, strict=True)):
            rows.setdefault((price, count), {})[way] = g
        most = max(map(len, rows.values()), default=0)
        return tuple(tuple(found[way] for way in Recompute if way in found) for found in rows.values()
                     if len(found) == most > 1)


@dataclass(frozen=True)
class SliceVariants:
    """The variants a slice is composed in; index g below.

    Attributes:
      per_byte_s, in_flight: as in `Multipliers`.
      pattern: how layers are recomputed; None where each layer is as is cheapest at that price.
      rows: [PERIOD, G]: row of a layer's frontier by position in the slice modulo `PERIOD`; those from `len(layers)` on
        are those of `layers.ways`, the cheapest of each.
    """

    per_byte_s: tuple[float, ...]
    in_flight: tuple[int, ...]
    pattern: tuple[Pattern | None, ...]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.per_byte_s)

    @cached_property
    def bounds(self) -> tuple[int, ...]:
        """All variants whose priced optimum bounds any plan."""
        return tuple(self.bounding(max(self.in_flight, default=1)))

    def bounding(self, flight: int) -> list[int]:
        """Variants whose priced optimum bounds every plan with at least that many microbatches in flight. Where memory
        has no price, recomputing nothing is the cheapest way."""
        mixed = None in self.pattern
        free = (_NONE,) * PERIOD
        return [g for g in range(len(self)) if self.in_flight[g] <= flight and (
            not mixed or self.pattern[g] is None or (self.per_byte_s[g] == 0 and self.pattern[g] == free))]


def slice_variants(layers: Multipliers) -> SliceVariants:
    """Every layer variant throughout, and the mixtures of those solved in several ways."""
    found: list[tuple[float, int, Pattern | None, tuple[int, ...]]] = [
        (layers.per_byte_s[g], layers.in_flight[g], (layers.recompute[g],) * PERIOD, (g,) * PERIOD)
        for g in range(len(layers))]
    for n, rows in enumerate(layers.ways):
        price, count = layers.per_byte_s[rows[0]], layers.in_flight[rows[0]]
        row = {layers.recompute[g]: g for g in rows}
        for few, many, share in MIXTURES:
            if few in row and many in row:
                pattern = tuple(many if _is_among(share, at) else few for at in range(PERIOD))
                found.append((price, count, pattern, tuple(row[way] for way in pattern)))
        found.append((price, count, None, (len(layers) + n,) * PERIOD))
    return SliceVariants(tuple(f[0] for f in found), tuple(f[1] for f in found), tuple(f[2] for f in found),
                         np.ascontiguousarray(np.array([f[3] for f in found], dtype=np.int64).T))


def _is_among(share: float, position: int) -> bool:
    """Whether the layer at that position is among an evenly spread share."""
    return floor((position + 1) * share + 0.5) > floor(position * share + 0.5)
