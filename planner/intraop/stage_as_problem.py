"""All choices of all layers of a stage as one `core.problem.Problem`: the independent check of elimination, frontiers
and refinement, and a large problem from practice for solvers.

Nodes are a choice of state per boundary, and the variables of each `PricedLayer`, of which tensors that cross a
boundary are tied to its state. Each layer is recomputed as told. Time has a point for every group of every
layer, and one more, when gradients are combined:

    resident bytes                  always
    saved bytes · in flight         at all groups' points (of a recomputed layer, only what it hands on or keeps)
    working bytes of a group        at its own point
    saved bytes once                at a recomputed layer's points (less those that it keeps)
    sync bytes                      at the last point

so that the peak is that of `compose.SliceTable.memory_bytes`. A node has one interval: bytes over other times, and
those of a pair of choices, are on nodes that follow from others. Costs are whole nanoseconds of step time.

In: `PricedLayer`s, the boundaries around them, how they are recomputed, the limit. Out: a `WholeStage`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from planner.core.graph import Graph
from planner.core.problem import INFINITE_COST, Edge, Node, Problem
from planner.core.recomputation import Recompute
from planner.core.spec import shard_count
from planner.costs.memory import value_bytes
from planner.intraop.boundary import Boundary
from planner.intraop.frontier import len_of
from planner.intraop.price import PricedLayer
from planner.intraop.solved_layer import agreement

NS = 1e9
"""Nanoseconds in a second."""

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class StageLayer:
    """A layer of a stage: its prices, the boundaries before and after it, how it is recomputed."""

    priced: PricedLayer
    before: Boundary
    after: Boundary
    recompute: Recompute = Recompute.NONE


@dataclass(frozen=True)
class WholeStage:
    """The problem, and how to say a choice in it.

    Attributes:
      states: the node of each boundary.
      variables: per layer, the node of each variable.
      follows: nodes whose strategy follows: (node, nodes it follows from, strategy by theirs).
    """

    problem: Problem
    states: tuple[int, ...]
    variables: tuple[tuple[int, ...], ...]
    follows: tuple[tuple[int, tuple[int, ...], Ints], ...]

    def choice(self, states: Sequence[int], choices: Sequence[Sequence[int]]) -> tuple[int, ...]:
        """A strategy per node, from the state of each boundary and the choice per variable of each layer."""
        picks = np.zeros(len(self.problem.nodes), dtype=np.int64)
        picks[list(self.states)] = states
        for nodes, chosen in zip(self.variables, choices, strict=True):
            picks[list(nodes)] = chosen
        for node, leads, strategy in self.follows:
            picks[node] = strategy[tuple(picks[list(leads)])]
        return tuple(picks.tolist())


@dataclass
class _Builder:
    nodes: list[Node] = field(default_factory=list[Node])
    edges: list[Edge] = field(default_factory=list[Edge])
    follows: list[tuple[int, tuple[int, ...], Ints]] = field(default_factory=list[tuple[int, tuple[int, ...], Ints]])

    def add(self, costs: Array, span: tuple[int, int] = (0, 0), usages: Array | None = None) -> int:
        held = np.zeros(len(costs)) if usages is None else usages
        self.nodes.append(Node(span, _whole(costs * NS), _whole(held)))
        return len(self.nodes) - 1

    def tie(self, a: int, b: int, costs: Array) -> None:
        self.edges.append(Edge(a, b, _whole(costs * NS)))

    def hold(self, v: int, span: tuple[int, int], usages: Array) -> None:
        """Bytes per strategy of node v over a span of time."""
        distinct, of = np.unique(usages, return_inverse=True)
        if distinct.any():
            self._follow((v,), of.astype(np.int64), span, distinct)

    def hold_pair(self, a: int, b: int, span: tuple[int, int], usages: Array) -> None:
        """Bytes per pair of strategies: of one side where only that matters, else of a node for the pair, of which
        strategies that are alike share theirs."""
        if (usages == usages[:1]).all():
            self.hold(b, span, usages[0])
        elif (usages == usages[:, :1]).all():
            self.hold(a, span, usages[:, 0])
        else:
            rows, of_a = np.unique(usages, axis=0, return_inverse=True)
            distinct, of_b = np.unique(rows, axis=1, return_inverse=True)
            pair = of_a.ravel()[:, None] * distinct.shape[1] + of_b.ravel()[None, :]
            self._follow((a, b), pair.astype(np.int64), span, distinct.ravel())

    def _follow(self, leads: tuple[int, ...], strategy: Ints, span: tuple[int, int], usages: Array) -> None:
        node = self.add(np.zeros(len(usages)), span, usages)
        for axis, lead in enumerate(leads):
            at = np.moveaxis(strategy, axis, 0).reshape(strategy.shape[axis], -1)
            apart = np.ones((len(at), len(usages)), dtype=bool)
            for v, mine in enumerate(at):
                apart[v, mine] = False
            self.tie(lead, node, np.where(apart, np.inf, 0.0))
        self.follows.append((node, leads, strategy))


def stage_as_problem(graph: Graph, layers: Sequence[StageLayer], in_flight: int, limit_bytes: int | None
                     ) -> WholeStage:
    """The problem. Layers are of one setting; `graph` is what they were priced on."""
    made = _Builder()
    sides = [layers[0].before, *(layer.after for layer in layers)]
    states = [made.add(np.zeros(len(side.states))) for side in sides]
    starts = np.cumsum([0, *(len(layer.priced.groups) for layer in layers)])
    end = int(starts[-1])
    variables = [_add_layer(made, graph, layer, (states[n], states[n + 1]), in_flight,
                            (int(starts[n]), int(starts[n + 1]), end)) for n, layer in enumerate(layers)]
    if layers[0].priced.setting.training:
        mesh = layers[0].priced.setting.mesh
        entering = np.array([sum(value_bytes(graph.values[v]) / shard_count(spec, mesh.shape)
                                 for v, spec in zip(sides[0].owners, state, strict=True)) for state in sides[0].states])
        made.hold(states[0], (0, end), in_flight * entering)
    problem = Problem("whole stage", tuple(made.nodes), tuple(made.edges), limit_bytes)
    return WholeStage(problem, tuple(states), tuple(variables), tuple(made.follows))


def _add_layer(made: _Builder, graph: Graph, layer: StageLayer, states: tuple[int, int], in_flight: int,
               times: tuple[int, int, int]) -> tuple[int, ...]:
    priced, first, end = layer.priced, times[0], times[2]
    b = priced.setting.microbatches
    weights = {"forward_s": b * (1 + (layer.recompute is Recompute.ALL)), "backward_s": b, "batch_s": 1,
               "again_s": b * (layer.recompute is Recompute.SELECTED)}
    at: list[int] = []
    for v, costs in enumerate(priced.unary):
        shape = (len_of(priced, v),)
        own, *others = [*_held(costs, shape, in_flight, times, recompute=layer.recompute), ((0, 0), np.zeros(shape))]
        at.append(made.add(_sum(costs, weights, shape), *own))
        for span, usages in others:
            made.hold(at[v], span, usages)
    for g, price in enumerate(priced.prices):
        made.hold(at[g], (first + g, first + g + 1), price.working)
    for (x, y), costs in priced.edges.items():
        shape = (len_of(priced, x), len_of(priced, y))
        made.tie(at[x], at[y], _sum(costs, weights, shape))
        for span, usages in _held(costs, shape, in_flight, times, recompute=layer.recompute):
            made.hold_pair(at[x], at[y], span, usages)
    for item, tensor in enumerate(priced.model.tensors):
        v = at[priced.tensor_variable(item)]
        for state, bound, places in zip(states, (layer.before, layer.after), (("in", "through"), ("out", "through")),
                                        strict=True):
            if tensor.place in places and tensor.owner in bound.owners:
                made.tie(v, state, agreement(priced.tensors[item], bound, tensor.owner))
        if layer.recompute is not Recompute.NONE and tensor.place == "out" and tensor.made_here:
            whole = value_bytes(graph.values[tensor.owner])
            made.hold(v, (0, end), in_flight * np.array([whole / shard_count(s, priced.setting.mesh.shape)
                                                         for s in priced.tensors[item]]))
    return tuple(at)


def _held(costs: Mapping[str, Array], shape: tuple[int, ...], in_flight: int, times: tuple[int, int, int], *,
          recompute: Recompute) -> list[tuple[tuple[int, int], Array]]:
    """(when, how many bytes) by kind."""
    first, last, end = times
    kept, times_kept = ((0, end), in_flight) if recompute is Recompute.NONE else ((first, last), 1)
    kinds = [("resident_bytes", (0, end + 1), 1), ("saved_bytes", kept, times_kept), ("sync_bytes", (end, end + 1), 1)]
    if recompute is Recompute.SELECTED:
        kinds += [("kept_bytes", (0, end), in_flight), ("kept_bytes", (first, last), -1)]
    together: dict[tuple[int, int], Array] = {}
    for kind, span, times_held in kinds:
        if kind in costs:
            together[span] = together.get(span, np.zeros(shape)) + times_held * costs[kind]
    return [(span, usages) for span, usages in together.items() if usages.any()]


def _sum(priced: Mapping[str, Array], weights: Mapping[str, int], shape: tuple[int, ...]) -> Array:
    total = np.zeros(shape)
    for kind, weight in weights.items():
        if kind in priced:
            total = total + weight * priced[kind]
    return total


def _whole(values: Array) -> tuple[int, ...]:
    return tuple(INFINITE_COST if value == np.inf else round(value) for value in values.ravel().tolist())
