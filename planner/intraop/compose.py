"""Costs of every slice of layers on one logical mesh, by min-plus products of the layers' frontiers.

Solving a slice [i..j] at one memory price decomposes over its layers given the boundary states between them, so all
slices follow from the frontiers of the distinct layers with one vectorised pass over j, for all starts i and all prices
at once.

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
from planner.intraop.frontier import PARTS, LayerFrontier, Multipliers

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SliceTable:
    """Slices [i..j] (inclusive) on one mesh. Entries with i > j are infinite.

    Attributes:
      priced: objective at each variant's memory price, [L, L, G].
      parts: [L, L, G, len(PARTS)].
      working_bytes: [L, L, G].
      state_out: best state after the slice, [L, L, G].
      exact: whether every layer was solved over all its strategies (only then are bounds proven).
      came_from: state before layer j on the best way to (i, j, g, state after j), [L, L, G, states].
    """

    mesh: LogicalMesh
    multipliers: Multipliers
    layers: tuple[LayerFrontier, ...]
    priced: Array
    parts: Array
    working_bytes: Array
    state_out: NDArray[np.int64]
    came_from: NDArray[np.int16]
    exact: bool = True

    def path(self, first: int, last: int, g: int) -> tuple[int, ...]:
        """Boundary states along a slice: before layer `first`, between layers, after layer `last`."""
        state = int(self.state_out[first, last, g])
        states = [state]
        for j in range(last, first - 1, -1):
            state = int(self.came_from[first, j, g, state])
            states.append(state)
        return tuple(reversed(states))

    def memory_bytes(self, in_flight: int) -> Array:
        """Peak bytes per device of every slice and variant with that many microbatches in flight, [L, L, G]."""
        return self.parts[..., 3] + in_flight * self.parts[..., 4] + self.working_bytes

    @property
    def microbatch_s(self) -> Array:
        return self.parts[..., 0] + self.parts[..., 1]

    @property
    def batch_s(self) -> Array:
        return self.parts[..., 2]


def slice_table(graph: Graph, mesh: LogicalMesh, layers: Sequence[LayerFrontier], multipliers: Multipliers, *,
                training: bool) -> SliceTable:
    """Compose. `layers[l]` is the frontier of layer l's class, with boundaries as seen by that class."""
    count, variants = len(layers), len(multipliers)
    states = max(max(len(f.before.states), len(f.after.states)) for f in layers)
    priced = np.full((count, count, variants), np.inf)
    parts = np.zeros((count, count, variants, len(PARTS)))
    working = np.zeros((count, count, variants))
    state_out = np.zeros((count, count, variants), dtype=np.int64)
    came = np.zeros((count, count, variants, states), dtype=np.int16)
    price = np.array(multipliers.per_byte_s) * np.array(multipliers.in_flight)
    value = np.full((count, variants, len(layers[0].before.states)), np.inf)
    sums = np.zeros((*value.shape, len(PARTS)))
    work = np.zeros(value.shape)
    for j, layer in enumerate(layers):
        n_in, n_out = (int(n) for n in layer.priced.shape[1:])
        held = _entering_bytes(graph, layer.before, mesh) if training else np.zeros(n_in)
        value[j] = price[:, None] * held[None, :]
        sums[j] = 0.0
        sums[j, :, :, 4] = held
        work[j] = 0.0
        upto = slice(0, j + 1)
        total = value[upto, :, :, None] + layer.priced[None]
        pick = np.argmin(total, axis=2)
        value_next = np.take_along_axis(total, pick[:, :, None, :], axis=2)[:, :, 0, :]
        g_at = np.arange(variants)[None, :, None]
        i_at = np.arange(j + 1)[:, None, None]
        o_at = np.arange(n_out)[None, None, :]
        sums_next = sums[i_at, g_at, pick] + layer.parts[g_at, pick, o_at]
        work_next = np.maximum(work[i_at, g_at, pick], layer.working_bytes[g_at, pick, o_at])
        came[upto, j, :, :n_out] = pick
        value = np.full((count, variants, n_out), np.inf)
        sums = np.zeros((*value.shape, len(PARTS)))
        work = np.zeros(value.shape)
        value[upto], sums[upto], work[upto] = value_next, sums_next, work_next
        best = np.argmin(value[upto], axis=2)
        state_out[upto, j] = best
        at = (np.arange(j + 1)[:, None], np.arange(variants)[None, :], best)
        priced[upto, j], parts[upto, j], working[upto, j] = value[at], sums[at], work[at]
    parts[~np.isfinite(priced)] = np.inf
    return SliceTable(mesh, multipliers, tuple(layers), priced, parts, working, state_out, came)


def _entering_bytes(graph: Graph, before: Boundary, mesh: LogicalMesh) -> Array:
    """Bytes per device of the activations that enter a slice, per state: its first layer keeps them for the backward
    pass."""
    return np.array([sum(value_bytes(graph.values[v]) / shard_count(spec, mesh.shape)
                         for v, spec in zip(before.owners, state, strict=True)) for state in before.states])
