"""Costs of every slice of layers on one logical mesh, by min-plus products of the layers' frontiers.

Solving a slice [i..j] at one memory price decomposes over its layers given the boundary states between them, so all
slices follow from the frontiers of the distinct layers: those of one length from those that are a layer shorter, for
all variants at once. Slices of equal layers are composed once (`distinct.py`), and of the frontiers only what best ways
use is decoded. Of each slice's variants those are kept that are faster or hold less than the others (`useful.py`), some
tenth of all; the way of a variant through one slice is found again when it is asked for (`ways.py`).

In: a `SolvedLayer` per layer (shared by layers of a class). Out: `SliceTable`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from planner.core.graph import Graph
from planner.core.hardware import LogicalMesh
from planner.core.spec import shard_count
from planner.costs.memory import value_bytes
from planner.intraop.boundary import Boundary
from planner.intraop.distinct import Slices
from planner.intraop.frontier import LayerFrontier
from planner.intraop.solved_layer import SolvedLayer
from planner.intraop.useful import Useful
from planner.intraop.variants import PERIOD, Multipliers, SliceVariants, slice_variants
from planner.intraop.ways import Ways, best_states, rows_of

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SliceTable:
    """Slices [i..j] (inclusive) on one mesh, alike ones as one.

    Attributes:
      microbatches: of a step.
      multipliers: rows of the layers' frontiers.
      variants: which there are.
      layers: the frontier of each layer; those of a table that was kept from an earlier search are solved when
        asked for.
      slices: the number of each slice, D in all.
      bounds: objective at the price of each of `variants.bounds`, [D, ...].
      useful: of every slice the variants that are faster or hold less than the others.
      exact: whether every layer was solved over all its strategies (only then are bounds proven).
      entering_bytes: per layer and state before it, bytes per microbatch that a slice keeps which begins there.
      least_forward_s: per layer, seconds below every forward of it: what its operators and tensors take at least, each
        by itself.
      least_working_bytes: per layer, bytes below what it works with.
    """

    mesh: LogicalMesh
    microbatches: int
    multipliers: Multipliers
    variants: SliceVariants
    layers: Sequence[LayerFrontier]
    slices: Slices
    bounds: Array
    useful: Useful
    entering_bytes: tuple[Array, ...]
    least_forward_s: tuple[float, ...]
    least_working_bytes: tuple[float, ...]
    exact: bool = True

    @cached_property
    def working_at_least(self) -> Array:
        """Bytes below what each slice works with, [slice]."""
        return self.slices.largest(np.array(self.least_working_bytes))

    def of(self, first: int, last: int) -> int:
        """The number of slice [first..last]."""
        return int(self.slices.at[first, last])

    def path(self, first: int, last: int, g: int) -> tuple[int, ...]:
        """Boundary states along variant g of a slice: before layer `first`, between layers, after layer `last`."""
        rows = [int(self.variants.rows[n % PERIOD, g]) for n in range(last + 1 - first)]
        entering_s = self.variants.per_byte_s[g] * self.variants.in_flight[g] * self.entering_bytes[first]
        return best_states(self.layers[first:last + 1], rows, self.multipliers, entering_s)

    def row(self, first: int, layer: int, g: int, state_in: int, state_out: int) -> int:
        """The row of the layer's frontier that variant g of a slice from `first` on uses, between two boundary
        states."""
        row = int(self.variants.rows[(layer - first) % PERIOD, g])
        if row < len(self.multipliers):
            return row
        rows = self.multipliers.ways[row - len(self.multipliers)]
        return rows[int(self.layers[layer].priced[list(rows), state_in, state_out].argmin())]

    def bound(self, some: Sequence[int], at: slice = slice(None)) -> Array:
        """The objective of variants that bound, [slice, variant], of slices by number."""
        return self.bounds[at, [self.variants.bounds.index(g) for g in some]]


def slice_table(mesh: LogicalMesh, solved: Sequence[SolvedLayer], slices: Slices,
                multipliers: Multipliers, *, microbatches: int, training: bool) -> SliceTable:
    """Compose. `solved[l]` is layer l's class at the multipliers, with boundaries as seen by that class."""
    variants = slice_variants(multipliers)
    by_kind = dict(zip(slices.kinds, solved, strict=True))
    held = {kind: _entering_bytes(f.graph, f.before, mesh) if training else np.zeros(len(f.before.states))
            for kind, f in by_kind.items()}
    least = {kind: sum(float(c["forward_s"].min()) for c in f.layer.unary if "forward_s" in c)
             for kind, f in by_kind.items()}
    working = {kind: max((float(p.working.min()) for p in f.layer.prices), default=0.0) for kind, f in by_kind.items()}
    ways = Ways(slices, variants, {kind: (f, rows_of(f.priced, multipliers)) for kind, f in by_kind.items()}, held)
    frontiers = {kind: f.frontier(used) for (kind, (f, _)), used in zip(ways.layers.items(), ways.used(), strict=True)}
    useful = ways.useful(frontiers, microbatches)
    return SliceTable(mesh, microbatches, multipliers, variants, tuple(frontiers[k] for k in slices.kinds), slices,
                      ways.bounds, useful, tuple(held[k] for k in slices.kinds),
                      tuple(least[k] for k in slices.kinds), tuple(working[k] for k in slices.kinds))


def _entering_bytes(graph: Graph, before: Boundary, mesh: LogicalMesh) -> Array:
    """Bytes per device of the activations that enter a slice, per state: its first layer keeps them for the backward
    pass."""
    return np.array([sum(value_bytes(graph.values[v]) / shard_count(spec, mesh.shape)
                         for v, spec in zip(before.owners, state, strict=True)) for state in before.states])
