"""A layer solved at prices of memory, before what was chosen is decoded: most points of a frontier are never looked at.

In: `PricedLayer`, its two boundaries, `Multipliers`. Out: a `SolvedLayer`, and from it the `LayerFrontier`.
"""

from dataclasses import dataclass, replace

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
    len_of,
    price_points,
    ways_of,
)
from planner.intraop.price import PricedLayer
from planner.intraop.setting import HIDDEN
from planner.intraop.variants import Multipliers
from planner.solvers.eliminate_tables import Elimination, eliminate


@dataclass(frozen=True)
class SolvedLayer:
    """A layer solved, before its choices are decoded: `priced` as in `LayerFrontier`, `open_choices` the variables that
    were left to eliminate."""

    graph: Graph
    layer: PricedLayer
    before: Boundary
    after: Boundary
    multipliers: Multipliers
    eliminated: Elimination
    open_choices: tuple[int, ...]

    @property
    def priced(self) -> Array:
        return self.eliminated.table

    def frontier(self, used: NDArray[np.bool_] | None = None) -> LayerFrontier:
        """Decode where `used`, [g, i, o], or everywhere."""
        g, i, o = np.nonzero(np.ones(self.priced.shape, dtype=bool) if used is None else used)
        choices = np.zeros((len(g), len(self.layer.unary) + 2), dtype=np.int64)
        choices[:, self.open_choices] = self.eliminated.decode_many(g, np.stack([i, o], axis=1))
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
    n = len(layer.unary)
    weights = _weights(layer, multipliers)
    unary = [_objective(costs, weights, multipliers, len_of(layer, v)) for v, costs in enumerate(layer.unary)]
    edges = {key: _objective(costs, weights, multipliers, (len_of(layer, key[0]), len_of(layer, key[1])))
             for key, costs in layer.edges.items()}
    for side, bound in ((n, before), (n + 1, after)):
        unary.append(np.zeros((1, len(bound.states))))
        places = ("in", "through") if side == n else ("out", "through")
        for item, tensor in enumerate(layer.model.tensors):
            if tensor.place in places and tensor.owner in bound.owners:
                edges[(layer.tensor_variable(item), side)] = agreement(layer.tensors[item], bound, tensor.owner)[None]
    open_choices, fewer_edges, keep = _without_forced(unary, edges, (n, n + 1))
    solved = eliminate([unary[v] for v in open_choices], fewer_edges, keep, max_table)
    return SolvedLayer(graph, layer, before, after, multipliers, solved, tuple(open_choices))


def _without_forced(unary: list[Array], edges: dict[tuple[int, int], Array], keep: tuple[int, int]
                    ) -> tuple[list[int], dict[tuple[int, int], Array], tuple[int, int]]:
    """Leave out variables with one choice, moving what their edges cost to their neighbours (in place, in `unary`).

    Returns:
      The variables left, the edges between them, and the kept variables, renumbered.
    """
    left = [v for v, costs in enumerate(unary) if costs.shape[-1] > 1 or v in keep]
    number = {v: at for at, v in enumerate(left)}
    between: dict[tuple[int, int], Array] = {}
    for (a, b), costs in edges.items():
        if a in number and b in number:
            between[number[a], number[b]] = costs
        elif a in number:
            unary[a] = unary[a] + costs[:, :, 0]
        elif b in number:
            unary[b] = unary[b] + costs[:, 0, :]
        else:
            unary[keep[0]] = unary[keep[0]] + costs[:, 0, :]
    for v, costs in enumerate(unary):
        if v not in number:
            unary[keep[0]] = unary[keep[0]] + costs
    return left, between, (number[keep[0]], number[keep[1]])


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


def _objective(costs: dict[str, Array], weights: dict[str, Array], multipliers: Multipliers, size: int | tuple[int, int]
               ) -> Array:
    shape = (size,) if isinstance(size, int) else size
    total = np.zeros((len(multipliers), *shape))
    for kind, values in costs.items():
        if np.any(values):
            total += weights[kind].reshape(-1, *(1,) * len(shape)) * values[None]
    return total


def agreement(specs: tuple[Spec, ...], bound: Boundary, owner: int) -> Array:
    """[spec, state]: 0 where a tensor's spec is the one the boundary state says, infinite elsewhere."""
    at = bound.owners.index(owner)
    return np.array([[0.0 if spec == state[at] else np.inf for state in bound.states] for spec in specs])
