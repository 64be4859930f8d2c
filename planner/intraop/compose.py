"""Costs of every slice of layers on one logical mesh, by min-plus products of the layers' frontiers.

Solving a slice [i..j] at one memory price decomposes over its layers given the boundary states between them, so all
slices follow from the frontiers of the distinct layers: those of one length from those that are a layer shorter, for
all variants at once. Slices of equal layers are composed once (`distinct.py`).

In: a `LayerFrontier` per layer (shared by layers of a class). Out: `SliceTable`, whose arrays are [slice, variant].
"""

from collections.abc import Sequence
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
from planner.intraop.min_plus import Rows, Ways, lengthen, no_ways
from planner.intraop.variants import PERIOD, Multipliers, SliceVariants, slice_variants

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SliceTable:
    """Slices [i..j] (inclusive) on one mesh, alike ones as one.

    Attributes:
      multipliers: rows of the layers' frontiers.
      variants: index g of the arrays.
      slices: the number of each slice, the first index of the arrays.
      priced: objective at each variant's memory price, [D, G].
      parts: [D, G, len(PARTS)].
      working_bytes: [D, G].
      state_out: best state after the slice, [D, G].
      exact: whether every layer was solved over all its strategies (only then are bounds proven).
      entering_bytes: per layer and state before it, bytes per microbatch that a slice keeps which begins there.
      came_from: state before the slice's last layer on the best way to each state after it, [D, G, states].
    """

    mesh: LogicalMesh
    multipliers: Multipliers
    variants: SliceVariants
    layers: tuple[LayerFrontier, ...]
    slices: Slices
    priced: Array
    parts: Array
    working_bytes: Array
    state_out: NDArray[np.int64]
    came_from: NDArray[np.int16]
    entering_bytes: tuple[Array, ...]
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


def slice_table(graph: Graph, mesh: LogicalMesh, layers: Sequence[LayerFrontier], slices: Slices,
                multipliers: Multipliers, *, training: bool) -> SliceTable:
    """Compose. `layers[l]` is the frontier of layer l's class, with boundaries as seen by that class."""
    variants = slice_variants(multipliers)
    width = len(variants)
    rows = {id(f): _rows(f, multipliers) for f in layers}
    entering = {id(f): _entering_bytes(graph, f.before, mesh) if training else np.zeros(len(f.before.states))
                for f in layers}
    states = max(max(len(f.before.states), len(f.after.states)) for f in layers)
    shape = (len(slices), width)
    table = SliceTable(mesh, multipliers, variants, tuple(layers), slices, np.full(shape, np.inf),
                       np.full((*shape, len(PARTS)), np.inf), np.zeros(shape), np.zeros(shape, dtype=np.int64),
                       np.zeros((*shape, states), dtype=np.int16), tuple(entering[id(f)] for f in layers))
    price = np.array(variants.per_byte_s) * np.array(variants.in_flight)
    before = _beginning(price, np.zeros(0), states)
    for length, level in enumerate(slices.levels):
        after = no_ways(len(level.starts), width, states, len(PARTS))
        starts: list[int] = level.starts.tolist()
        lasts = [layers[start + length] for start in starts]
        for layer in {id(f): f for f in lasts}.values():
            mine = np.flatnonzero([f is layer for f in lasts])
            if length:
                which = level.shorter[mine] - slices.levels[length - 1].first
            else:
                before, which = _beginning(price, entering[id(layer)], states), np.zeros(len(mine), dtype=np.int64)
            table.came_from[level.first + mine, :, :layer.priced.shape[2]] = lengthen(
                before, which, rows[id(layer)], variants.rows[length % PERIOD], after, mine)
        _note(table, level, after)
        before = after
    return table


def _beginning(price: Array, held: Array, states: int) -> Ways:
    """Before the first layer: what enters it is held."""
    found = no_ways(1, len(price), states, len(PARTS))
    found.value[0, :, :len(held)] = price[:, None] * held[None, :]
    found.sums[0, :, :len(held), 4] = held
    return found


def _note(table: SliceTable, level: Level, ways: Ways) -> None:
    """Write down the best of all states after each slice."""
    best: NDArray[np.int64] = np.argmin(ways.value, axis=2)
    n, g = np.arange(len(best))[:, None], np.arange(len(table.variants))[None]
    value = ways.value[n, g, best]
    table.state_out[level.numbers], table.priced[level.numbers] = best, value
    table.parts[level.numbers] = np.where(np.isfinite(value)[..., None], ways.sums[n, g, best], np.inf)
    table.working_bytes[level.numbers] = ways.work[n, g, best]


def _rows(layer: LayerFrontier, multipliers: Multipliers) -> Rows:
    ways = np.array(multipliers.ways, dtype=np.int64)
    if not len(ways):
        return Rows(layer.priced, layer.parts, layer.working_bytes)
    best = np.take_along_axis(ways[:, :, None, None], layer.priced[ways].argmin(axis=1)[:, None], axis=1)[:, 0]
    at = (best, *np.indices(best.shape)[1:])

    def with_cheapest(values: Array) -> Array:
        return np.concatenate([values, values[at]])

    return Rows(with_cheapest(layer.priced), with_cheapest(layer.parts), with_cheapest(layer.working_bytes))


def _entering_bytes(graph: Graph, before: Boundary, mesh: LogicalMesh) -> Array:
    """Bytes per device of the activations that enter a slice, per state: its first layer keeps them for the backward
    pass."""
    return np.array([sum(value_bytes(graph.values[v]) / shard_count(spec, mesh.shape)
                         for v, spec in zip(before.owners, state, strict=True)) for state in before.states])
