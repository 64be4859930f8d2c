"""Costs of every slice of layers on one logical mesh, by min-plus products of the layers' frontiers.

Solving a slice [i..j] at one memory price decomposes over its layers given the boundary states between them, so all
slices follow from the frontiers of the distinct layers: those of one length from those that are a layer shorter, for
all variants at once. Slices of equal layers are composed once (`distinct.py`), and of the frontiers only what best ways
use is decoded.

In: a `SolvedLayer` per layer (shared by layers of a class). Out: `SliceTable`, whose arrays are [slice, variant].
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.core.graph import Graph
from planner.core.hardware import LogicalMesh
from planner.core.spec import shard_count
from planner.costs.memory import value_bytes
from planner.intraop.boundary import Boundary
from planner.intraop.distinct import Level, Slices
from planner.intraop.frontier import PARTS, LayerFrontier
from planner.intraop.min_plus import Longer, Rows, Sums, add_up, lengthen, mark
from planner.intraop.solved_layer import SolvedLayer
from planner.intraop.variants import PERIOD, Multipliers, SliceVariants, slice_variants

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SliceTable:
    """Slices [i..j] (inclusive) on one mesh, alike ones as one.

    Attributes:
      multipliers: rows of the layers' frontiers.
      layers: the frontier of each layer; those of a table that was kept from an earlier search are solved when
        asked for.
      variants: index g of the arrays.
      slices: the number of each slice, the first index of the arrays.
      priced: objective at each variant's memory price, [D, G].
      parts: [D, G, len(PARTS)].
      working_bytes: [D, G].
      state_out: best state after the slice, [D, G].
      exact: whether every layer was solved over all its strategies (only then are bounds proven).
      entering_bytes: per layer and state before it, bytes per microbatch that a slice keeps which begins there.
      least_forward_s: per layer, seconds below every forward of it: what its operators and tensors take at least, each
        by itself.
      came_from: state before the slice's last layer on the best way to each state after it, [D, G, states].
    """

    mesh: LogicalMesh
    multipliers: Multipliers
    variants: SliceVariants
    layers: Sequence[LayerFrontier]
    slices: Slices
    priced: Array
    parts: Array
    working_bytes: Array
    state_out: NDArray[np.int64]
    came_from: NDArray[np.int16]
    entering_bytes: tuple[Array, ...]
    least_forward_s: tuple[float, ...]
    least_working_bytes: tuple[float, ...]
    exact: bool = True

    def of(self, first: int, last: int) -> int:
        """The number of slice [first..last]."""
        return int(self.slices.at[first, last])

    def path(self, first: int, last: int, g: int) -> tuple[int, ...]:
        """Boundary states along a slice: before layer `first`, between layers, after layer `last`."""
        at = self.of(first, last)
        state = int(self.state_out[at, g])
        states = [state]
        while at >= 0:
            state = int(self.came_from[at, g, state])
            states.append(state)
            at = int(self.slices.shorter[at])
        return tuple(reversed(states))

    def row(self, first: int, layer: int, g: int, state_in: int, state_out: int) -> int:
        """The row of the layer's frontier that variant g of a slice from `first` on uses, between two boundary
        states."""
        row = int(self.variants.rows[(layer - first) % PERIOD, g])
        if row < len(self.multipliers):
            return row
        rows = self.multipliers.ways[row - len(self.multipliers)]
        return rows[int(self.layers[layer].priced[list(rows), state_in, state_out].argmin())]

    def memory_bytes(self, in_flight: int) -> Array:
        """Peak bytes per device of every slice and variant with that many microbatches in flight, [D, G]: when
        activations are most, or when gradients are combined."""
        return self.parts[..., 3] + np.maximum(in_flight * self.parts[..., 4] + self.working_bytes, self.parts[..., 5])

    @property
    def microbatch_s(self) -> Array:
        return self.parts[..., 0] + self.parts[..., 1]

    @property
    def batch_s(self) -> Array:
        return self.parts[..., 2]


def slice_table(graph: Graph, mesh: LogicalMesh, solved: Sequence[SolvedLayer], slices: Slices,
                multipliers: Multipliers, *, training: bool) -> SliceTable:
    """Compose. `solved[l]` is layer l's class at the multipliers, with boundaries as seen by that class."""
    variants = slice_variants(multipliers)
    by_kind = dict(zip(slices.kinds, solved, strict=True))
    held = {kind: _entering_bytes(graph, f.before, mesh) if training else np.zeros(len(f.before.states))
            for kind, f in by_kind.items()}
    least = {kind: sum(float(c["forward_s"].min()) for c in f.layer.unary if "forward_s" in c)
             for kind, f in by_kind.items()}
    working = {kind: max((float(p.working.min()) for p in f.layer.prices), default=0.0) for kind, f in by_kind.items()}
    ways = _Ways(slices, variants, {kind: (f, _rows(f.priced, multipliers)) for kind, f in by_kind.items()}, held)
    state_out, priced = ways.best()
    used = ways.used(state_out, priced)
    frontiers = {kind: f.frontier(used[kind]) for kind, (f, _) in ways.layers.items()}
    parts, most = ways.sums(frontiers, state_out, priced)
    return SliceTable(mesh, multipliers, variants, tuple(frontiers[k] for k in slices.kinds), slices, priced, parts,
                      most, state_out, ways.came, tuple(held[k] for k in slices.kinds),
                      tuple(least[k] for k in slices.kinds), tuple(working[k] for k in slices.kinds))


class _Ways:
    """The best way through every slice to each state after it, for every variant."""

    def __init__(self, slices: Slices, variants: SliceVariants, layers: dict[int, tuple[SolvedLayer, Rows]],
                 held: dict[int, Array]) -> None:
        """`layers` and `held` (bytes of what enters a slice that begins there, by state) by class."""
        self.slices, self.variants, self.layers, self.held = slices, variants, layers, held
        self._states = max(max(len(f.before.states), len(f.after.states)) for f, _ in layers.values())
        self.came = np.zeros((len(slices), len(variants), self._states), dtype=np.int16)
        self._reached = np.zeros(self.came.shape, dtype=bool)

    def best(self) -> tuple[NDArray[np.int64], Array]:
        """The best state after each slice, and the objective there, [slice, variant]."""
        state_out = np.zeros(self.came.shape[:2], dtype=np.int64)
        priced = np.full(self.came.shape[:2], np.inf)
        price = np.array(self.variants.per_byte_s) * np.array(self.variants.in_flight)
        before = np.zeros((0, *self.came.shape[1:]))
        for length, level in enumerate(self.slices.levels):
            after = np.full((len(level.starts), *self.came.shape[1:]), np.inf)
            for kind, longer in self._behind(length, level):
                if not length:
                    before, held = np.full((1, *self.came.shape[1:]), np.inf), self.held[kind]
                    before[0, :, :len(held)] = price[:, None] * held[None, :]
                lengthen(before, longer, self.layers[kind][1].priced, after, self.came)
            best: NDArray[np.int64] = np.argmin(after, axis=2)
            state_out[level.numbers] = best
            priced[level.numbers] = np.take_along_axis(after, best[..., None], axis=2)[..., 0]
            before = after
        return state_out, priced

    def used(self, state_out: NDArray[np.int64], priced: Array) -> dict[int, NDArray[np.bool_]]:
        """The points of each layer's frontier that are on the best way through some slice."""
        np.put_along_axis(self._reached, state_out[..., None], np.isfinite(priced)[..., None], axis=2)
        found = {kind: np.zeros(f.priced.shape, dtype=bool) for kind, (f, _) in self.layers.items()}
        for length, level in reversed(list(enumerate(self.slices.levels))):
            for kind, longer in self._behind(length, level):
                mark(longer, self.layers[kind][1].own, self.came, self._reached, found[kind])
        return found

    def sums(self, frontiers: dict[int, LayerFrontier], state_out: NDArray[np.int64], priced: Array
             ) -> tuple[Array, Array]:
        """Parts [slice, variant, part] and working bytes [slice, variant] of the best way through each slice."""
        parts, working = np.full((*priced.shape, len(PARTS)), np.inf), np.zeros(priced.shape)
        before = _nothing(0, self.came.shape, len(PARTS))
        for length, level in enumerate(self.slices.levels):
            after = _nothing(len(level.starts), self.came.shape, len(PARTS))
            for kind, longer in self._behind(length, level):
                held, f = self.held[kind], frontiers[kind]
                if not length:
                    before = _nothing(1, self.came.shape, len(PARTS))
                    before.parts[0, :, :len(held), 4] = held
                add_up(before, longer, self.layers[kind][1].own, Sums(f.parts, f.working_bytes), self.came,
                       self._reached, after)
            best = state_out[level.numbers][..., None]
            found = np.take_along_axis(after.parts, best[..., None], axis=2)[:, :, 0]
            parts[level.numbers] = np.where(np.isfinite(priced[level.numbers])[..., None], found, np.inf)
            working[level.numbers] = np.take_along_axis(after.work, best, axis=2)[..., 0]
            before = after
        return parts, working

    def _behind(self, length: int, level: Level) -> Iterator[tuple[int, Longer]]:
        """The slices of a length by the class of their last layer."""
        row = self.variants.rows[length % PERIOD]
        for b in level.behind:
            yield b.kind, Longer(b.which, b.shorter, b.place, b.numbers, row)


def _nothing(count: int, shape: tuple[int, ...], parts: int) -> Sums:
    return Sums(np.zeros((count, *shape[1:], parts)), np.zeros((count, *shape[1:])))


def _rows(priced: Array, multipliers: Multipliers) -> Rows:
    """A layer's rows, and behind them the cheapest way of each price."""
    own = np.broadcast_to(np.arange(len(priced))[:, None, None], priced.shape)
    ways = np.array(multipliers.ways, dtype=np.int64)
    if not len(ways):
        return Rows(priced, np.ascontiguousarray(own))
    best = np.take_along_axis(ways[:, :, None, None], priced[ways].argmin(axis=1)[:, None], axis=1)[:, 0]
    return Rows(np.concatenate([priced, priced[(best, *np.indices(best.shape)[1:])]]), np.concatenate([own, best]))


def _entering_bytes(graph: Graph, before: Boundary, mesh: LogicalMesh) -> Array:
    """Bytes per device of the activations that enter a slice, per state: its first layer keeps them for the backward
    pass."""
    return np.array([sum(value_bytes(graph.values[v]) / shard_count(spec, mesh.shape)
                         for v, spec in zip(before.owners, state, strict=True)) for state in before.states])
