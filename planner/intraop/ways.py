"""The best way through every slice, for every variant: to each state after it, and from there back.

First forward, for what the best ways cost; then back, for the points of layers' frontiers that they use, which are few
of all and the only ones worth decoding; then forward again, adding up what they cost in time and memory. Of all that
only what is of use is kept; the way through one slice is looked for again when it is asked for.

In: the distinct layers, solved. Out: bounds, points used, `Useful` variants; the boundary states of one slice.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from planner.intraop.distinct import Level, Slices
from planner.intraop.frontier import PARTS, LayerFrontier
from planner.intraop.min_plus import Longer, Rows, Sums, add_up, best_end, lengthen, mark, way_through
from planner.intraop.solved_layer import SolvedLayer
from planner.intraop.useful import Useful, UsefulOf
from planner.intraop.variants import PERIOD, Multipliers, SliceVariants

Array = NDArray[np.float64]


class Ways:
    """The best way through every slice to each state after it, for every variant.

    Attributes:
      bounds: the objective of the best, of each variant that bounds, [slice, variant].
    """

    def __init__(self, slices: Slices, variants: SliceVariants, layers: Mapping[int, tuple[SolvedLayer, Rows]],
                 held: Mapping[int, Array]) -> None:
        """`layers` and `held` (bytes of what enters a slice that begins there, by state) by class."""
        self.layers, self._slices, self._variants, self._held = layers, slices, variants, held
        states = max(max(len(f.before.states), len(f.after.states)) for f, _ in layers.values())
        shape = len(slices), len(variants)
        self._came = np.zeros((*shape, states), dtype=np.int16)  # the state before the last layer, by that after it
        self._end = np.zeros(shape, dtype=np.int64)  # the best state after a slice
        self._possible = np.zeros(shape, dtype=bool)
        self._reached = np.zeros(self._came.shape, dtype=bool)
        self.bounds = self._forward()

    def used(self) -> list[NDArray[np.bool_]]:
        """The points of each class's frontier that are on the best way through some slice."""
        np.put_along_axis(self._reached, self._end[..., None], self._possible[..., None], axis=2)
        found = {kind: np.zeros(f.priced.shape, dtype=bool) for kind, (f, _) in self.layers.items()}
        for length, level in reversed(list(enumerate(self._slices.levels))):
            for kind, longer in self._behind(length, level):
                mark(longer, self.layers[kind][1].own, self._came, self._reached, found[kind])
        return [found[kind] for kind in self.layers]

    def useful(self, frontiers: Mapping[int, LayerFrontier], microbatches: int) -> Useful:
        """What the best ways cost, once it is known which they use (`used`); of those variants that are of use."""
        shape = self._came.shape[1:]
        found, before = UsefulOf(microbatches, shape[0]), _nothing(0, shape)
        for length, level in enumerate(self._slices.levels):
            after = _nothing(len(level.starts), shape)
            for kind, longer in self._behind(length, level):
                held, f = self._held[kind], frontiers[kind]
                if not length:
                    before = _nothing(1, shape)
                    before.parts[0, :, :len(held), 4] = held
                add_up(before, longer, self.layers[kind][1].own, Sums(f.parts, f.working_bytes), self._came,
                       self._reached, after)
            found.add(after.parts, after.work, self._end[level.numbers], self._possible[level.numbers])
            before = after
        return found.found()

    def _forward(self) -> Array:
        bounding = np.array(self._variants.bounds, dtype=np.int64)
        found = np.full((len(self._slices), len(bounding)), np.inf)
        price = np.array(self._variants.per_byte_s) * np.array(self._variants.in_flight)
        before = np.zeros((0, *self._came.shape[1:]))
        for length, level in enumerate(self._slices.levels):
            after = np.full((len(level.starts), *self._came.shape[1:]), np.inf)
            for kind, longer in self._behind(length, level):
                if not length:
                    before, held = np.full((1, *self._came.shape[1:]), np.inf), self._held[kind]
                    before[0, :, :len(held)] = price[:, None] * held[None, :]
                lengthen(before, longer, self.layers[kind][1].priced, after, self._came)
            best_end(after, level.first, self._end, self._possible, bounding, found)
            before = after
        return found

    def _behind(self, length: int, level: Level) -> Iterator[tuple[int, Longer]]:
        """The slices of a length by the class of their last layer."""
        row = self._variants.rows[length % PERIOD]
        for b in level.behind:
            yield b.kind, Longer(b.which, b.shorter, b.place, b.numbers, row)


def best_states(layers: Sequence[LayerFrontier], rows: Sequence[int], multipliers: Multipliers, entering_s: Array
                ) -> tuple[int, ...]:
    """The boundary states on the best way through a slice: before its first layer, between layers, after its last.

    Args:
      layers: of the slice.
      rows: of each layer's frontier; those behind the last are those of `multipliers.ways`, the cheapest of each.
      multipliers: rows of the frontiers.
      entering_s: what its first layer is charged for what enters, per state.
    """
    known: dict[tuple[int, int], int] = {}
    kinds = [known.setdefault((id(f), row), len(known)) for f, row in zip(layers, rows, strict=True)]
    first = {kind: n for n, kind in reversed(list(enumerate(kinds)))}
    priced = [_cheapest(layers[n].priced, rows[n], multipliers) for _, n in sorted(first.items())]
    states = max(max(p.shape) for p in priced)
    found, begin = np.full((len(priced), states, states), np.inf), np.full(states, np.inf)
    for to, own in zip(found, priced, strict=True):
        to[:own.shape[0], :own.shape[1]] = own
    begin[:len(entering_s)] = entering_s
    return tuple(way_through(found, np.array(kinds, dtype=np.int64), begin).tolist())


def rows_of(priced: Array, multipliers: Multipliers) -> Rows:
    """A layer's rows, and behind them the cheapest way of each price."""
    own = np.broadcast_to(np.arange(len(priced))[:, None, None], priced.shape)
    ways = np.array(multipliers.ways, dtype=np.int64)
    if not len(ways):
        return Rows(priced, np.array(own, order="C"))
    best = np.take_along_axis(ways[:, :, None, None], priced[ways].argmin(axis=1)[:, None], axis=1)[:, 0]
    return Rows(np.concatenate([priced, priced[(best, *np.indices(best.shape)[1:])]]), np.concatenate([own, best]))


def _cheapest(priced: Array, row: int, multipliers: Multipliers) -> Array:
    """A row of a frontier, [state before, state after]."""
    if row < len(multipliers):
        return priced[row]
    return priced[list(multipliers.ways[row - len(multipliers)])].min(axis=0)


def _nothing(count: int, shape: tuple[int, ...]) -> Sums:
    return Sums(np.zeros((count, *shape, len(PARTS))), np.zeros((count, *shape)))
