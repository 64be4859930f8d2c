"""Costs of every slice of layers on one logical mesh, by min-plus products of the layers' frontiers.

Solving a slice [i..j] at one memory price decomposes over its layers given the boundary states between them, so all
slices follow from the frontiers of the distinct layers with one vectorised pass over j, for all starts i and all
variants at once.

In: a `LayerFrontier` per layer (shared by layers of a class). Out: `SliceTable`, whose arrays are [start, end,
variant].
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
from planner.intraop.frontier import PARTS, LayerFrontier
from planner.intraop.variants import PERIOD, Multipliers, SliceVariants, slice_variants

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SliceTable:
    """Slices [i..j] (inclusive) on one mesh. Entries with i > j are infinite.

    Attributes:
      multipliers: rows of the layers' frontiers.
      variants: index g of the arrays.
      priced: objective at each variant's memory price, [L, L, G].
      parts: [L, L, G, len(PARTS)].
      working_bytes: [L, L, G].
      state_out: best state after the slice, [L, L, G].
      exact: whether every layer was solved over all its strategies (only then are bounds proven).
      entering_bytes: per layer and state before it, bytes per microbatch that a slice keeps which begins there.
      came_from: state before layer j on the best way to (i, j, g, state after j), [L, L, G, states].
    """

    mesh: LogicalMesh
    multipliers: Multipliers
    variants: SliceVariants
    layers: tuple[LayerFrontier, ...]
    priced: Array
    parts: Array
    working_bytes: Array
    state_out: NDArray[np.int64]
    came_from: NDArray[np.int16]
    entering_bytes: tuple[Array, ...]
    exact: bool = True

    def path(self, first: int, last: int, g: int) -> tuple[int, ...]:
        """Boundary states along a slice: before layer `first`, between layers, after layer `last`."""
        state = int(self.state_out[first, last, g])
        states = [state]
        for j in range(last, first - 1, -1):
            state = int(self.came_from[first, j, g, state])
            states.append(state)
        return tuple(reversed(states))

    def row(self, first: int, layer: int, g: int, state_in: int, state_out: int) -> int:
        """The row of the layer's frontier that variant g of a slice from `first` on uses, between two boundary
        states."""
        row = int(self.variants.rows[(layer - first) % PERIOD, g])
        if row < len(self.multipliers):
            return row
        rows = self.multipliers.ways()[row - len(self.multipliers)]
        return rows[int(self.layers[layer].priced[list(rows), state_in, state_out].argmin())]

    def memory_bytes(self, in_flight: int) -> Array:
        """Peak bytes per device of every slice and variant with that many microbatches in flight, [L, L, G]: when
        activations are most, or when gradients are combined."""
        return self.parts[..., 3] + np.maximum(in_flight * self.parts[..., 4] + self.working_bytes, self.parts[..., 5])

    @property
    def microbatch_s(self) -> Array:
        return self.parts[..., 0] + self.parts[..., 1]

    @property
    def batch_s(self) -> Array:
        return self.parts[..., 2]


def slice_table(graph: Graph, mesh: LogicalMesh, layers: Sequence[LayerFrontier], multipliers: Multipliers, *,
                training: bool) -> SliceTable:
    """Compose. `layers[l]` is the frontier of layer l's class, with boundaries as seen by that class."""
    variants = slice_variants(multipliers)
    count, width = len(layers), len(variants)
    states = max(max(len(f.before.states), len(f.after.states)) for f in layers)
    priced = np.full((count, count, width), np.inf)
    parts = np.zeros((count, count, width, len(PARTS)))
    working = np.zeros((count, count, width))
    state_out = np.zeros((count, count, width), dtype=np.int64)
    came = np.zeros((count, count, width, states), dtype=np.int16)
    price = np.array(variants.per_byte_s) * np.array(variants.in_flight)
    rows = {id(f): _rows(f, multipliers) for f in layers}
    entering = {id(f): _entering_bytes(graph, f.before, mesh) if training else np.zeros(len(f.before.states))
                for f in layers}
    value = np.full((count, width, len(layers[0].before.states)), np.inf)
    sums = np.zeros((*value.shape, len(PARTS)))
    work = np.zeros(value.shape)
    for j, layer in enumerate(layers):
        n_out = int(layer.priced.shape[2])
        held = entering[id(layer)]
        value[j] = price[:, None] * held[None, :]
        sums[j] = 0.0
        sums[j, :, :, 4] = held
        work[j] = 0.0
        upto = slice(0, j + 1)
        solved = rows[id(layer)]
        row = variants.rows[np.arange(j, -1, -1) % PERIOD]
        total = value[upto, :, :, None] + solved.priced[row]
        pick = np.argmin(total, axis=2)
        value_next = np.take_along_axis(total, pick[:, :, None, :], axis=2)[:, :, 0, :]
        row, g_at = row[:, :, None], np.arange(width)[None, :, None]
        i_at = np.arange(j + 1)[:, None, None]
        o_at = np.arange(n_out)[None, None, :]
        sums_next = sums[i_at, g_at, pick] + solved.parts[row, pick, o_at]
        work_next = np.maximum(work[i_at, g_at, pick], solved.working_bytes[row, pick, o_at])
        came[upto, j, :, :n_out] = pick
        value = np.full((count, width, n_out), np.inf)
        sums = np.zeros((*value.shape, len(PARTS)))
        work = np.zeros(value.shape)
        value[upto], sums[upto], work[upto] = value_next, sums_next, work_next
        best = np.argmin(value[upto], axis=2)
        state_out[upto, j] = best
        at = (np.arange(j + 1)[:, None], np.arange(width)[None, :], best)
        priced[upto, j], parts[upto, j], working[upto, j] = value[at], sums[at], work[at]
    parts[~np.isfinite(priced)] = np.inf
    return SliceTable(mesh, multipliers, variants, tuple(layers), priced, parts, working, state_out, came,
                      tuple(entering[id(f)] for f in layers))


@dataclass(frozen=True)
class _Rows:
    """A layer's frontier, and after its own rows the cheapest of those that are solved in several ways."""

    priced: Array
    parts: Array
    working_bytes: Array


def _rows(layer: LayerFrontier, multipliers: Multipliers) -> _Rows:
    ways = np.array(multipliers.ways(), dtype=np.int64)
    if not len(ways):
        return _Rows(layer.priced, layer.parts, layer.working_bytes)
    best = np.take_along_axis(ways[:, :, None, None], layer.priced[ways].argmin(axis=1)[:, None], axis=1)[:, 0]
    at = (best, *np.indices(best.shape)[1:])

    def with_cheapest(values: Array) -> Array:
        return np.concatenate([values, values[at]])

    return _Rows(with_cheapest(layer.priced), with_cheapest(layer.parts), with_cheapest(layer.working_bytes))


def _entering_bytes(graph: Graph, before: Boundary, mesh: LogicalMesh) -> Array:
    """Bytes per device of the activations that enter a slice, per state: its first layer keeps them for the backward
    pass."""
    return np.array([sum(value_bytes(graph.values[v]) / shard_count(spec, mesh.shape)
                         for v, spec in zip(before.owners, state, strict=True)) for state in before.states])
