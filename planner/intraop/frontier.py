"""Time-memory frontiers of one layer: for each price of memory, the best sharding per pair of boundary states, exactly.

A layer's choices form a pairwise problem of low treewidth, so min-sum elimination (`solvers/eliminate_tables.py`) gives
the optimum for *every* pair of boundary states at once. A memory limit enters as a price per byte (a Lagrange
multiplier): layers priced at the same multiplier compose by min-plus products, and each multiplier gives a proven lower
bound.

Communication that may hide behind kernels (`costs/overlap.py`) is left out of what is minimised, so that bounds stay
bounds; of the choices found, what the layer's kernels are too short to hide is added to their parts.

In: `PricedLayer`, its two boundaries, `Multipliers`. Out: `LayerFrontier`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.core.graph import Graph, Phase
from planner.core.recomputation import Recompute
from planner.core.spec import Spec, shard_count
from planner.costs.memory import value_bytes
from planner.costs.overlap import hidden_s
from planner.intraop.boundary import Boundary
from planner.intraop.price import PricedLayer
from planner.intraop.setting import AGAIN, HIDDEN
from planner.intraop.variants import Multipliers
from planner.solvers.eliminate_tables import eliminate

Array = NDArray[np.float64]

_NONE, _SELECTED, _ALL = range(len(Recompute))

PARTS = ("forward_s", "backward_s", "batch_s", "resident_bytes", "saved_bytes", "sync_bytes")


@dataclass(frozen=True)
class LayerFrontier:
    """`priced[g, i, o]` and the parts that make it up, `parts[g, i, o, len(PARTS)]`; `working_bytes[g, i, o]`;
    the choice per variable, `choices[g, i, o, variable]`; `hidden_s[g, i, o, 3]`, the communication that runs beside
    kernels and is no part of forward, backward and batch; `excess_s[g, i, o]`, seconds of a step that were to hide and
    can't: they are in the parts and not in `priced`.

    In a variant that recomputes all, `saved_bytes` are those of what the layer hands on (what enters it is counted
    where it is made), where selected tensors are recomputed also those of what is kept; what is saved no longer moves
    to `working_bytes`.
    """

    priced: Array
    parts: Array
    working_bytes: Array
    hidden_s: Array
    excess_s: Array
    choices: NDArray[np.int16]
    layer: PricedLayer
    before: Boundary
    after: Boundary

    def choice(self, g: int, state_in: int, state_out: int) -> NDArray[np.int16]:
        """The choice per variable of the layer (groups, tensors, parameters)."""
        return self.choices[g, state_in, state_out]


def layer_frontier(graph: Graph, layer: PricedLayer, before: Boundary, after: Boundary, multipliers: Multipliers,
                   max_table: int = 30_000_000) -> LayerFrontier:
    """Solve the layer for every multiplier and pair of boundary states.

    Raises:
      WidthExceeded: the layer is too entangled for exact elimination.
    """
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
    g, i, o = (a.ravel() for a in np.indices(solved.table.shape))
    choices = np.zeros((len(g), n + 2), dtype=np.int64)
    choices[:, open_choices] = solved.decode_many(g, np.stack([i, o], axis=1))
    points = _points(graph, layer, choices[:, :n], _ways(layer, multipliers)[g])
    return _frontier(layer, points, solved.table, before, after)


def one_point(graph: Graph, layer: PricedLayer, choice: NDArray[np.int64], recompute: Recompute) -> LayerFrontier:
    """The frontier that has one choice alone, whatever the boundaries."""
    points = _points(graph, layer, choice[None], _ways(layer, Multipliers((0.0,), (1,), (recompute,))))
    b = layer.setting.microbatches
    step_s = points.parts[0, :3] @ np.array([b, b, 1.0]) - _unhidden(layer, points)[0]
    anywhere = Boundary((), ((),))
    return _frontier(layer, points, np.full((1, 1, 1), step_s), anywhere, anywhere)


@dataclass(frozen=True)
class _Points:
    """What choices cost, [choice, ...]: see `LayerFrontier`."""

    choices: NDArray[np.int64]
    parts: Array
    working: Array
    hidden: Array
    excess: Array


def _points(graph: Graph, layer: PricedLayer, choices: NDArray[np.int64], ways: NDArray[np.int64]) -> _Points:
    """Price choices per variable; `ways`: as `_ways` gives them, how the layer is recomputed under each."""
    parts = _parts(layer, choices)
    working = _working(layer, choices)
    again, some = ways == _ALL, ways == _SELECTED
    hidden, excess = _hidden(layer, choices, again)
    parts[:, :3] += excess
    if again.any() or some.any():
        more_s, kept = _parts(layer, choices, AGAIN).T * some
        working = working + np.where(again | some, np.maximum(parts[:, 4] - kept, 0.0), 0.0)
        for seconds in (parts, hidden, excess):
            seconds[:, 1] += np.where(again, seconds[:, 0], 0.0)
        parts[:, 1] += more_s
        parts[:, 4] = np.where(again | some, kept + _handed_out(graph, layer, choices), parts[:, 4])
    return _Points(choices, parts, working, hidden, excess)


def _ways(layer: PricedLayer, multipliers: Multipliers) -> NDArray[np.int64]:
    """Per variant, how the layer is recomputed in it, as a position in `Recompute`; not at all where selected tensors
    are to be and the layer has none."""
    found = np.array([list(Recompute).index(way) for way in multipliers.recompute])
    return np.where(found == _SELECTED, _NONE, found) if layer.model.selection is None else found


def _unhidden(layer: PricedLayer, points: _Points) -> Array:
    return points.excess @ np.array([layer.setting.microbatches, layer.setting.microbatches, 1.0])


def _frontier(layer: PricedLayer, points: _Points, priced: Array, before: Boundary, after: Boundary) -> LayerFrontier:
    shape = priced.shape
    return LayerFrontier(priced, points.parts.reshape(*shape, len(PARTS)), points.working.reshape(shape),
                         points.hidden.reshape(*shape, 3), _unhidden(layer, points).reshape(shape),
                         points.choices.astype(np.int16).reshape(*shape, len(layer.unary)), layer, before, after)


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


def len_of(layer: PricedLayer, variable: int) -> int:
    """Number of choices of a variable."""
    if variable < len(layer.groups):
        return len(layer.groups[variable])
    variable -= len(layer.groups)
    if variable < len(layer.tensors):
        return len(layer.tensors[variable])
    return len(layer.params[variable - len(layer.tensors)])


def _weights(layer: PricedLayer, multipliers: Multipliers) -> dict[str, Array]:
    """Per kind of cost and multiplier, its weight in the objective (seconds of step time)."""
    b = float(layer.setting.microbatches)
    price = np.array(multipliers.per_byte_s)
    ways, held = _ways(layer, multipliers), price * np.array(multipliers.in_flight)
    return {"forward_s": b * (1.0 + (ways == _ALL)), "backward_s": np.full(len(price), b),
            "batch_s": np.ones(len(price)), "resident_bytes": price, "saved_bytes": held * (ways == _NONE),
            "sync_bytes": np.zeros(len(price)), "again_s": b * (ways == _SELECTED),
            "kept_bytes": held * (ways == _SELECTED),
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


def _hidden(layer: PricedLayer, choices: NDArray[np.int64], again: NDArray[np.bool_]) -> tuple[Array, Array]:
    """What hides of a forward, a backward and a batch, and what was to and can't, [choice, 3]; a forward that is run
    again is not yet in the backward."""
    may = _parts(layer, choices, HIDDEN)
    if not may.any():
        return may, np.zeros_like(may)
    beside = np.zeros((len(choices), 2))
    for v, price in enumerate(layer.prices):
        for k, (kind, backward) in enumerate((("forward_s", False), ("backward_s", True))):
            waits = sum((s.seconds for s in price.settled if (s.phase is Phase.BACKWARD) == backward),
                        np.zeros(len(price.strategies)))
            beside[:, k] += np.maximum(price.costs[kind] - waits, 0.0)[choices[:, v]]
    each = hidden_s(may[:, :2], beside)
    left = beside - each
    batch = hidden_s(may[:, 2], left[:, 1] + np.where(again, left[:, 0], 0.0))
    found = np.concatenate([each, batch[:, None]], axis=1)
    return found, may - found


def _parts(layer: PricedLayer, choices: NDArray[np.int64], kinds: tuple[str, ...] = PARTS) -> Array:
    total = np.zeros((len(choices), len(kinds)))
    for v, costs in enumerate(layer.unary):
        for k, kind in enumerate(kinds):
            if kind in costs:
                total[:, k] += costs[kind][choices[:, v]]
    for (a, b), costs in layer.edges.items():
        for k, kind in enumerate(kinds):
            if kind in costs:
                total[:, k] += costs[kind][choices[:, a], choices[:, b]]
    return total


def _working(layer: PricedLayer, choices: NDArray[np.int64]) -> Array:
    working = np.zeros(len(choices))
    for v, price in enumerate(layer.prices):
        working = np.maximum(working, price.working[choices[:, v]])
    return working


def _handed_out(graph: Graph, layer: PricedLayer, choices: NDArray[np.int64]) -> Array:
    """Bytes of what the layer hands to later layers: kept even when the layer is recomputed, for they recompute from
    it."""
    total = np.zeros(len(choices))
    for item, tensor in enumerate(layer.model.tensors):
        if tensor.place == "out" and tensor.made_here:
            whole = value_bytes(graph.values[tensor.owner])
            table = np.array([whole / shard_count(s, layer.setting.mesh.shape) for s in layer.tensors[item]])
            total += table[choices[:, layer.tensor_variable(item)]]
    return total
