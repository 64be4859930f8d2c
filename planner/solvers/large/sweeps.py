"""Dual ascent and rounding as compiled loops.

The scheme is `dual_ascent`'s (SRMP, Kolmogorov 2015), in messages: edge e holds a vector of what it has given to each
end, at to_a[e] and to_b[e] of `given`, and its table is never changed. With any messages,
sum_v min(own_v) + sum_e min(table_e - given to its ends), own_v being v's costs and rent and all it was given, is at
most the cost of any choice plus rent; so what `bound` returns is proven whatever the sweeps did.

On the way each node picks what is best given the picks before it and the messages from the nodes after it.
"""

# In compiled loops an element of an array is a plain number, which its static type doesn't say.
# pyright: reportReturnType=false, reportArgumentType=false, reportAssignmentType=false

from typing import NamedTuple

import numpy as np

from planner.solvers.large.compiled import compiled, compiled_loose
from planner.solvers.large.flat import FlatModel, Floats, Graph, Ints, Memory

ERROR = 1e-15
"""Relative error of one float operation, generously; float64 has 1.1e-16."""


class Messages(NamedTuple):
    """What edges have given to their ends: edge e's vectors begin at given[to_a[e]] and given[to_b[e]]."""

    to_a: Ints
    to_b: Ints
    given: Floats

    def copied(self) -> "Messages":
        """With vectors of its own."""
        return Messages(self.to_a, self.to_b, self.given.copy())


class Swept(NamedTuple):
    """What a sweep made.

    Attributes:
      picks: per node, the rounding.
      alone: per node, what it would pick by the messages alone.
      total: the bound that the messages now give, before rounding of floats is allowed for.
    """

    picks: Ints
    alone: Ints
    total: float


def no_messages(model: FlatModel) -> Messages:
    """Nothing given yet."""
    sizes = model.sizes()
    both = np.stack([sizes[model.graph.a], sizes[model.graph.b]], axis=1).ravel()
    places = np.concatenate([[0], np.cumsum(both)]).astype(np.int64)
    return Messages(places[:-1:2].copy(), places[1::2].copy(), np.zeros(int(places[-1])))


def sweep(model: FlatModel, messages: Messages, costs: Floats, *, forward: bool) -> Swept:
    """One sweep over all nodes, with `costs` that include rent; the messages are changed."""
    return Swept(*_sweep(model.graph, messages, costs, 1 if forward else -1))


def bound(model: FlatModel, messages: Messages, costs: Floats) -> float:
    """A proven lower bound on cost + rent of every choice, rounding of floats allowed for."""
    nodes, size = _node_minima(model.graph, messages, costs)
    edges, more = _edge_minima(model.graph, messages)
    return nodes + edges - ERROR * (size + more)


def rent(model: FlatModel, prices: Floats) -> Floats:
    """What each choice pays for its memory, given a price per grid time."""
    out = np.zeros(len(model.graph.costs))
    _rent(model.graph, model.memory, np.concatenate([[0.0], np.cumsum(prices)]), out)
    return out


@compiled
def _rent(graph: Graph, memory: Memory, before: Floats, out: Floats) -> None:
    for v in range(len(graph.offset) - 1):
        for k in range(memory.use[v], memory.use[v + 1]):
            price = before[memory.last[k]] - before[memory.first[k]]
            if price > 0.0:
                for i in range(graph.offset[v + 1] - graph.offset[v]):
                    out[graph.offset[v] + i] += price * memory.usages[memory.place[k] + i]


@compiled_loose
def _spare_rows(table: Floats, there: Floats, out: Floats) -> None:
    """out[i] = min over j of table[i, j] - there[j]."""
    for i in range(len(out)):
        least = np.inf
        row = table[i * len(there) : (i + 1) * len(there)]
        for j in range(len(there)):
            value = row[j] - there[j]
            least = value if value < least else least
        out[i] = least


@compiled_loose
def _spare_columns(table: Floats, there: Floats, out: Floats) -> None:
    """out[j] = min over i of table[i, j] - there[i]."""
    out[:] = np.inf
    for i in range(len(there)):
        row = table[i * len(out) : (i + 1) * len(out)]
        less = there[i]
        for j in range(len(out)):
            value = row[j] - less
            out[j] = value if value < out[j] else out[j]


@compiled
def _take(graph: Graph, messages: Messages, e: int, v: int, pick: int, own: Floats, look: Floats) -> None:
    """Take what edge e can spare for v, and see its costs with the other end's pick."""
    is_a = graph.a[e] == v
    u = graph.b[e] if is_a else graph.a[e]
    n, m = len(own), graph.offset[u + 1] - graph.offset[u]
    table = graph.tables[graph.start[e] : graph.start[e] + n * m]
    to_v, to_u = (messages.to_a[e], messages.to_b[e]) if is_a else (messages.to_b[e], messages.to_a[e])
    mine, theirs = messages.given[to_v : to_v + n], messages.given[to_u : to_u + m]
    if is_a:
        _spare_rows(table, theirs, mine)
    else:
        _spare_columns(table, theirs, mine)
    for i in range(n):
        own[i] += mine[i]
        look[i] += table[i * m + pick] if is_a else table[pick * n + i]


@compiled
def _sweep(graph: Graph, messages: Messages, costs: Floats, way: int) -> tuple[Ints, Ints, float]:
    offset, near = graph.offset, graph.near
    count = len(offset) - 1
    picks, alone = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    total = 0.0  # of the nodes' minima; an edge's is 0 once its second end has taken what it can spare
    for step in range(count):
        v = step if way > 0 else count - 1 - step
        n = offset[v + 1] - offset[v]
        own, look = costs[offset[v] : offset[v + 1]].copy(), costs[offset[v] : offset[v + 1]].copy()
        later = 0
        for k in range(near[v], near[v + 1]):
            e = graph.around[k]
            is_a = graph.a[e] == v
            u = graph.b[e] if is_a else graph.a[e]
            if (u - v) * way < 0:
                _take(graph, messages, e, v, picks[u], own, look)
                continue
            later += 1
            mine = messages.to_a[e] if is_a else messages.to_b[e]
            for i in range(n):
                own[i] += messages.given[mine + i]
                look[i] += messages.given[mine + i]
        picks[v], alone[v] = np.argmin(look), np.argmin(own)
        shares = max(1, later, near[v + 1] - near[v] - later)
        total += own[alone[v]] * (1.0 - later / shares)
        for k in range(near[v], near[v + 1]):
            e = graph.around[k]
            is_a = graph.a[e] == v
            u = graph.b[e] if is_a else graph.a[e]
            if (u - v) * way > 0:
                mine = messages.to_a[e] if is_a else messages.to_b[e]
                for i in range(n):
                    messages.given[mine + i] -= own[i] / shares
    return picks, alone, total


@compiled
def _node_minima(graph: Graph, messages: Messages, costs: Floats) -> tuple[float, float]:
    """The sum of the nodes' minima, and of the magnitudes that went into it."""
    total = size = 0.0
    for v in range(len(graph.offset) - 1):
        least, magnitude = np.inf, 0.0
        for i in range(graph.offset[v + 1] - graph.offset[v]):
            own = costs[graph.offset[v] + i]
            big = abs(own)
            for k in range(graph.near[v], graph.near[v + 1]):
                e = graph.around[k]
                part = messages.given[(messages.to_a[e] if graph.a[e] == v else messages.to_b[e]) + i]
                own += part
                big += abs(part)
            if own < least:
                least, magnitude = own, big
        total += least
        size += (2 + graph.near[v + 1] - graph.near[v]) * magnitude
    return total, size


@compiled
def _edge_minima(graph: Graph, messages: Messages) -> tuple[float, float]:
    """The sum of what edges have left at least, and of the magnitudes that went into it."""
    total = size = 0.0
    for e in range(len(graph.a)):
        n = graph.offset[graph.a[e] + 1] - graph.offset[graph.a[e]]
        m = graph.offset[graph.b[e] + 1] - graph.offset[graph.b[e]]
        least, magnitude = np.inf, 0.0
        for i in range(n):
            for j in range(m):
                pair = graph.tables[graph.start[e] + i * m + j]
                mine, theirs = messages.given[messages.to_a[e] + i], messages.given[messages.to_b[e] + j]
                if pair - mine - theirs < least:
                    least, magnitude = pair - mine - theirs, abs(pair) + abs(mine) + abs(theirs)
        total += least
        size += 3 * magnitude
    return total, size
