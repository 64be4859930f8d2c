"""The variants that layers and slices are solved in: a price of memory, microbatches in flight, what is recomputed.

A layer is solved for each price and count in flight, recomputed and not. A slice composes them in more ways at the same
price: a share of its layers recomputed, evenly spread, or each layer as is cheapest. Between "all" and "nothing" there
is room where memory is tight: layers that are alike would otherwise all change their minds at one price.

In: prices from the search. Out: which row of a layer's frontier a slice's variant uses at which position.
"""

from dataclasses import dataclass
from math import floor

import numpy as np
from numpy.typing import NDArray

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of a slice's layers that are recomputed. [chosen]"""

PERIOD = 4
"""Positions after which the pattern of every share repeats."""


@dataclass(frozen=True)
class Multipliers:
    """The variants a layer is solved in; index g below.

    Attributes:
      per_byte_s: price of a resident byte, in seconds of step time.
      in_flight: microbatches held; the price of a saved byte is `per_byte_s * in_flight`.
      recompute: whether the layer's forward is run again in the backward pass instead of saving activations.
    """

    per_byte_s: tuple[float, ...]
    in_flight: tuple[int, ...]
    recompute: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.per_byte_s)

    def pairs(self) -> tuple[tuple[int, int], ...]:
        """(row not recomputed, row recomputed) of every price and count that is solved both ways."""
        rows = {(p, k, r): g for g, (p, k, r) in enumerate(zip(self.per_byte_s, self.in_flight, self.recompute,
                                                              strict=True))}
        return tuple((g, rows[p, k, True]) for (p, k, again), g in rows.items() if not again and (p, k, True) in rows)


@dataclass(frozen=True)
class SliceVariants:
    """The variants a slice is composed in; index g below.

    Attributes:
      per_byte_s, in_flight: as in `Multipliers`.
      share: of the layers that are recomputed; None where each layer is as is cheapest at that price.
      rows: [PERIOD, G]: row of a layer's frontier by position in the slice modulo `PERIOD`; those from `len(layers)` on
        are the pairs of `layers.pairs()`, the cheaper of both.
    """

    per_byte_s: tuple[float, ...]
    in_flight: tuple[int, ...]
    share: tuple[float | None, ...]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.per_byte_s)

    def bounding(self, flight: int) -> list[int]:
        """Variants whose priced optimum bounds every plan with at least that many microbatches in flight."""
        mixed = None in self.share
        return [g for g in range(len(self)) if self.in_flight[g] <= flight and (self.share[g] is None or not mixed)]


def slice_variants(layers: Multipliers) -> SliceVariants:
    """Every layer variant throughout, and the mixtures of those solved both ways."""
    pairs = layers.pairs()
    found: list[tuple[float, int, float | None, tuple[int, ...]]] = []
    mixed = {g for pair in pairs for g in pair}
    for g in range(len(layers)):
        if g not in mixed:
            share = float(layers.recompute[g])
            found.append((layers.per_byte_s[g], layers.in_flight[g], share, (g,) * PERIOD))
    for n, pair in enumerate(pairs):
        price, count = layers.per_byte_s[pair[0]], layers.in_flight[pair[0]]
        found += [(price, count, share, tuple(pair[_recomputed(share, at)] for at in range(PERIOD)))
                  for share in SHARES]
        found.append((price, count, None, (len(layers) + n,) * PERIOD))
    return SliceVariants(tuple(f[0] for f in found), tuple(f[1] for f in found), tuple(f[2] for f in found),
                         np.array([f[3] for f in found], dtype=np.int64).T)


def _recomputed(share: float, position: int) -> bool:
    """Whether the layer at that position is among an evenly spread share."""
    return floor((position + 1) * share + 0.5) > floor(position * share + 0.5)
