"""A priced layer as a `core.problem.Problem`, so that any solver can solve it: the independent check of `frontier.py`.

Costs are whole nanoseconds of step time; usages whole bytes held at the peak, in one interval. Memory on a link (a
local gradient, a second copy) moves to a node where it depends on one side alone, else to a node for the pair of
choices.
"""

import numpy as np
from numpy.typing import NDArray

from planner.core.problem import INFINITE_COST, Edge, Node, Problem
from planner.intraop.frontier import len_of
from planner.intraop.price import PricedLayer

NS = 1e9


def as_problem(layer: PricedLayer, limit_bytes: int | None, in_flight: int = 1) -> Problem:
    """The layer with free boundaries, nothing recomputed."""
    b = layer.setting.microbatches
    weights = {"forward_s": b, "backward_s": b, "batch_s": 1}
    count = len(layer.unary)
    costs = [_sum(layer.unary[v], weights, (len_of(layer, v),)) for v in range(count)]
    held_at = {"resident_bytes": 1, "saved_bytes": in_flight}
    usages = [_sum(layer.unary[v], held_at, (len_of(layer, v),)) for v in range(count)]
    edges: list[tuple[int, int, NDArray[np.float64]]] = []
    for (x, y), priced in layer.edges.items():
        shape = (len_of(layer, x), len_of(layer, y))
        edges.append((x, y, _sum(priced, weights, shape)))
        held = _sum(priced, held_at, shape)
        if (held == held[:1]).all():
            usages[y] = usages[y] + held[0]
        elif (held == held[:, :1]).all():
            usages[x] = usages[x] + held[:, 0]
        else:
            costs.append(np.zeros(held.size))
            usages.append(held.ravel())
            pair = np.arange(held.size)
            edges.append((x, len(costs) - 1, np.where(np.arange(shape[0])[:, None] == pair // shape[1], 0.0, np.inf)))
            edges.append((y, len(costs) - 1, np.where(np.arange(shape[1])[:, None] == pair % shape[1], 0.0, np.inf)))
    nodes = tuple(Node((0, 1), _whole(c * NS), _whole(u)) for c, u in zip(costs, usages, strict=True))
    return Problem("layer", nodes, tuple(Edge(x, y, _whole(c.ravel() * NS)) for x, y, c in edges), limit_bytes)


def _sum(priced: dict[str, NDArray[np.float64]], weights: dict[str, int], shape: tuple[int, ...]
         ) -> NDArray[np.float64]:
    total = np.zeros(shape)
    for kind, weight in weights.items():
        if kind in priced:
            total = total + weight * priced[kind]
    return total


def _whole(values: NDArray[np.float64]) -> tuple[int, ...]:
    return tuple(INFINITE_COST if np.isinf(x) else round(float(x)) for x in values)
