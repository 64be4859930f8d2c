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
from planner.core.spec import shard_count
from planner.costs.memory import value_bytes
from planner.costs.overlap import hidden_s
from planner.intraop.boundary import Boundary
from planner.intraop.price import PricedLayer
from planner.intraop.setting import AGAIN, HIDDEN
from planner.intraop.variants import Multipliers

Array = NDArray[np.float64]

NONE, SELECTED, ALL = range(len(Recompute))

PARTS = ("forward_s", "backward_s", "batch_s", "resident_bytes", "saved_bytes", "sync_bytes")


@dataclass(frozen=True)
class LayerFrontier:
    """`priced[g, i, o]` and the parts that make it up, `parts[g, i, o, len(PARTS)]`; `working_bytes[g, i, o]`;
    the choice per variable, `choices[g, i, o, variable]`; `hidden_s[g, i, o, 3]`, the communication that runs beside
    kernels and is no part of forward, backward and batch; `excess_s[g, i, o]`, seconds of a step that were to hide and
    can't: they are in the parts and not in `priced`.

    `decoded`: where all that is known, [g, i, o]; everywhere if None. `priced` is known everywhere.

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
    decoded: NDArray[np.bool_] | None = None

    def choice(self, g: int, state_in: int, state_out: int) -> NDArray[np.int16]:
        """The choice per variable of the layer (groups, tensors, parameters)."""
        assert self.decoded is None or self.decoded[g, state_in, state_out]
        return self.choices[g, state_in, state_out]


def one_point(graph: Graph, layer: PricedLayer, choice: NDArray[np.int64], recompute: Recompute) -> LayerFrontier:
    """The frontier that has one choice alone, whatever the boundaries."""
    points = price_points(graph, layer, choice[None], ways_of(layer, Multipliers((0.0,), (1,), (recompute,))))
    b = layer.setting.microbatches
    step_s = points.parts[0, :3] @ np.array([b, b, 1.0]) - _unhidden(layer, points)[0]
    anywhere = Boundary((), ((),))
    first = (np.zeros(1, dtype=np.int64),) * 3
    return frontier_at(layer, points, np.full((1, 1, 1), step_s), anywhere, anywhere, first)


@dataclass(frozen=True)
class PricedPoints:
    """What choices cost, [choice, ...]: see `LayerFrontier`."""

    choices: NDArray[np.int64]
    parts: Array
    working: Array
    hidden: Array
    excess: Array


def price_points(graph: Graph, layer: PricedLayer, choices: NDArray[np.int64], ways: NDArray[np.int64]) -> PricedPoints:
    """Price choices per variable; `ways`: as `ways_of` gives them, how the layer is recomputed under each."""
    parts = layer.flat.added_up(choices, PARTS)
    working = _working(layer, choices)
    again, some = ways == ALL, ways == SELECTED
    hidden, excess = _hidden(layer, choices, again)
    parts[:, :3] += excess
    if again.any() or some.any():
        more_s, kept = layer.flat.added_up(choices, AGAIN).T * some
        working = working + np.where(again | some, np.maximum(parts[:, 4] - kept, 0.0), 0.0)
        for seconds in (parts, hidden, excess):
            seconds[:, 1] += np.where(again, seconds[:, 0], 0.0)
        parts[:, 1] += more_s
        parts[:, 4] = np.where(again | some, kept + _handed_out(graph, layer, choices), parts[:, 4])
    return PricedPoints(choices, parts, working, hidden, excess)


def ways_of(layer: PricedLayer, multipliers: Multipliers) -> NDArray[np.int64]:
    """Per variant, how the layer is recomputed in it, as a position in `Recompute`; not at all where selected tensors
    are to be and the layer has none."""
    places = {way: n for n, way in enumerate(Recompute)}
    found = np.array([places[way] for way in multipliers.recompute])
    return np.where(found == SELECTED, NONE, found) if layer.model.selection is None else found


def _unhidden(layer: PricedLayer, points: PricedPoints) -> Array:
    return points.excess @ np.array([layer.setting.microbatches, layer.setting.microbatches, 1.0])


def frontier_at(layer: PricedLayer, points: PricedPoints, priced: Array, before: Boundary, after: Boundary,
              at: tuple[NDArray[np.int64], ...]) -> LayerFrontier:
    """The frontier whose points are known at [g, i, o] `at`; memory of others is not so much as touched."""
    def spread(values: Array) -> Array:
        found = np.zeros((*priced.shape, *values.shape[1:]))
        found[at] = values
        return found

    choices = np.zeros((*priced.shape, points.choices.shape[1]), dtype=np.int16)
    choices[at] = points.choices
    return LayerFrontier(priced, spread(points.parts), spread(points.working), spread(points.hidden),
                         spread(_unhidden(layer, points)), choices, layer, before, after)


def len_of(layer: PricedLayer, variable: int) -> int:
    """Number of choices of a variable."""
    if variable < len(layer.groups):
        return len(layer.groups[variable])
    variable -= len(layer.groups)
    if variable < len(layer.tensors):
        return len(layer.tensors[variable])
    return len(layer.params[variable - len(layer.tensors)])


def _hidden(layer: PricedLayer, choices: NDArray[np.int64], again: NDArray[np.bool_]) -> tuple[Array, Array]:
    """What hides of a forward, a backward and a batch, and what was to and can't, [choice, 3]; a forward that is run
    again is not yet in the backward."""
    may = layer.flat.added_up(choices, HIDDEN)
    if not may.any():
        return may, np.zeros_like(may)
    beside = np.zeros((len(choices), 2))
    for v, price in enumerate(layer.prices):
        for k, (kind, backward) in enumerate((("forward_s", False), ("backward_s", True))):
            waits = sum((s.seconds for s in (*price.settled, *price.exchanged)
                         if (s.phase is Phase.BACKWARD) == backward), np.zeros(len(price.strategies)))
            beside[:, k] += np.maximum(price.costs[kind] - waits, 0.0)[choices[:, v]]
    each = hidden_s(may[:, :2], beside)
    left = beside - each
    batch = hidden_s(may[:, 2], left[:, 1] + np.where(again, left[:, 0], 0.0))
    found = np.concatenate([each, batch[:, None]], axis=1)
    return found, may - found


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
