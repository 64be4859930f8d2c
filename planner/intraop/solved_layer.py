"""A layer solved at prices of memory, before what was chosen is decoded: most points of a frontier are never looked at.

In: `PricedLayer`, its two boundaries, `Multipliers`. Out: a `SolvedLayer`, and from it the `LayerFrontier`.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from planner.core.graph import Graph
from planner.core.spec import Spec
from planner.intraop.boundary import Boundary
from planner.intraop.frontier import (
    ALL,
    NONE,
    SELECTED,
    Array,
    LayerFrontier,
    frontier_at,
    price_points,
    ways_of,
)
from planner.intraop.price import PricedLayer
from planner.intraop.setting import HIDDEN
from planner.intraop.variants import Multipliers
from planner.solvers.eliminate_tables import Elimination
from planner.solvers.elimination_code import EliminationCode, Scope, elimination_code
from planner.solvers.elimination_run import rows_for, run


@dataclass(frozen=True)
class SolvedLayer:
    """A layer solved, before its choices are decoded: `priced` as in `LayerFrontier`."""

    graph: Graph
    layer: PricedLayer
    before: Boundary
    after: Boundary
    multipliers: Multipliers
    eliminated: Elimination

    @property
    def priced(self) -> Array:
        return self.eliminated.table

    def frontier(self, used: NDArray[np.bool_] | None = None) -> LayerFrontier:
        """Decode where `used`, [g, i, o], or everywhere."""
        g, i, o = np.nonzero(np.ones(self.priced.shape, dtype=bool) if used is None else used)
        choices = self.eliminated.decode_many(g, np.stack([i, o], axis=1))
        points = price_points(self.graph, self.layer, choices[:, :-2], ways_of(self.layer, self.multipliers)[g])
        found = frontier_at(self.layer, points, self.priced, self.before, self.after, (g, i, o))
        return found if used is None else replace(found, decoded=used)


def layer_frontier(graph: Graph, layer: PricedLayer, before: Boundary, after: Boundary, multipliers: Multipliers,
                   max_table: int = 30_000_000) -> LayerFrontier:
    """Solve the layer for every multiplier and pair of boundary states.

    Raises:
      WidthExceeded: the layer is too entangled for exact elimination.
    """
    return solve_layer(graph, layer, before, after, multipliers, max_table).frontier()


def solve_layer(graph: Graph, layer: PricedLayer, before: Boundary, after: Boundary, multipliers: Multipliers,
                max_table: int = 30_000_000) -> SolvedLayer:
    """As `layer_frontier`, with nothing decoded yet. Errors as there."""
    ready = _ready(layer, before, after, len(multipliers), max_table)
    rows = rows_for(ready.code, len(multipliers))
    layer.flat.weighted(_weights(layer, multipliers), rows)
    for start, table in ready.tables:
        rows[:, start:start + table.size] = table.ravel()
    eliminated = Elimination(run(ready.code, rows), ready.code, rows, batched=True)
    return SolvedLayer(graph, layer, before, after, multipliers, eliminated)


@dataclass(frozen=True)
class _Ready:
    """The steps that solve a layer between two boundaries, and the tables of those: where each begins in a row."""

    code: EliminationCode
    tables: tuple[tuple[int, Array], ...]


def _ready(layer: PricedLayer, before: Boundary, after: Boundary, batch: int, max_table: int) -> _Ready:
    """The same for all prices of memory. The boundaries' states are two more variables, before and after."""
    found = layer.asked.get((before, after))
    if isinstance(found, _Ready):
        found.code.check(batch, max_table)
        return found
    n, flat = len(layer.unary), layer.flat
    scopes, tables = list(flat.scopes), list[Array]()
    for side, bound, places in ((n, before, ("in", "through")), (n + 1, after, ("out", "through"))):
        for item, tensor in enumerate(layer.model.tensors):
            if tensor.place in places and tensor.owner in bound.owners:
                scopes.append((layer.tensor_variable(item), side))
                tables.append(agreement(layer.tensors[item], bound, tensor.owner))
    domains = (*flat.domains, len(before.states), len(after.states))
    code = _code(domains, tuple(scopes), (n, n + 1), batch, max_table)
    starts = code.starts[len(flat.scopes):]
    layer.asked[before, after] = made = _Ready(code, tuple(zip(starts, tables, strict=True)))
    return made


@lru_cache(maxsize=256)
def _code(domains: tuple[int, ...], scopes: tuple[Scope, ...], keep: Scope, batch: int, max_table: int
          ) -> EliminationCode:
    """See `elimination_code`. On meshes of one shape, and for other numbers of microbatches, it is asked the same."""
    return elimination_code(domains, scopes, keep, batch, max_table)


def _weights(layer: PricedLayer, multipliers: Multipliers) -> dict[str, Array]:
    """Per kind of cost and multiplier, its weight in the objective (seconds of step time)."""
    b = float(layer.setting.microbatches)
    price = np.array(multipliers.per_byte_s)
    ways, held = ways_of(layer, multipliers), price * np.array(multipliers.in_flight)
    return {"forward_s": b * (1.0 + (ways == ALL)), "backward_s": np.full(len(price), b),
            "batch_s": np.ones(len(price)), "resident_bytes": price, "saved_bytes": held * (ways == NONE),
            "sync_bytes": np.zeros(len(price)), "again_s": b * (ways == SELECTED),
            "kept_bytes": held * (ways == SELECTED),
            **{kind: np.zeros(len(price)) for kind in HIDDEN}}


def agreement(specs: tuple[Spec, ...], bound: Boundary, owner: int) -> Array:
    """[spec, state]: 0 where a tensor's spec is the one the boundary state says, infinite elsewhere."""
    at = bound.owners.index(owner)
    return np.array([[0.0 if spec == state[at] else np.inf for state in bound.states] for spec in specs])
