"""Local search whose move is an exact re-choice of a whole random tree of nodes, everything else frozen.

A connected set of nodes that induces a tree is grown at random around a node; with its surroundings frozen, its best
choices under cost + rent + noise are found by dynamic programming from the leaves up. Of domains of size d and a tree
of k nodes that searches d^k choices in k d^2 steps. The move is kept if the cost, and a penalty on memory over the
limit, fall or rise by no more than an exponentially distributed allowance (Metropolis). With a penalty that is raised
while memory is over the limit and lowered while it is not, the search crosses the border to and fro.

In: a `FlatModel`, a place. Out: the place changed, and the best choice seen; compiled, and releases the GIL.
"""

# In compiled loops an element of an array is a plain number, which its static type doesn't say.
# pyright: reportReturnType=false, reportArgumentType=false, reportAssignmentType=false

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.core.problem import INFINITE_COST
from planner.solvers.large.compiled import compiled
from planner.solvers.large.flat import FlatModel, Floats, Graph, Ints, Memory

WIDEST_WEIGHT = 1.5
"""While memory is over the limit, rents are multiplied by up to e^1.5, evenly on a log scale."""


class Moves(NamedTuple):
    """How to search.

    Attributes:
      tries: moves to try.
      largest: nodes of the largest tree; sizes are spread evenly on a log scale.
      temperature: mean rise in cost that is allowed, and the noise on a choice's cost.
      rent_weight: part of the rent that counts when moves are judged, 0 to 1.
      penalty: what a unit of memory over the limit costs at each time.
    """

    tries: int
    largest: int
    temperature: float
    rent_weight: float
    penalty: float


@dataclass
class Place:
    """Where a search stands: choice [nodes], its usage over the model's grid, and its best feasible choice yet."""

    choice: Ints
    usage: Ints
    best: Ints
    best_cost: float


class _Tree(NamedTuple):
    """A tree and what is known of it. Per place in it: node, parent node, edge to it, new choice. Per node: its place,
    and `mark`: 2 * stamp in the tree of this stamp, 2 * stamp + 1 looked at. `value` [choices of all nodes]: cost of
    the subtree; `back` [place, parent's choice]: best choice given the parent's. `rim`: nodes waiting to be added."""

    node: Ints
    parent: Ints
    link: Ints
    fresh: Ints
    place: Ints
    mark: Ints
    rim: Ints
    value: Floats
    back: Ints


class _Scene(NamedTuple):
    """What a search sees and changes: as in `FlatModel` and `Place`, with the rent of every choice."""

    graph: Graph
    memory: Memory
    rent: Floats
    choice: Ints
    usage: Ints
    best: Ints
    chance: NDArray[np.uint64]


def search_trees(model: FlatModel, place: Place, rent: Floats, moves: Moves, seed: int) -> int:
    """Try moves from `place`, which is changed; the number of moves kept. Equal seeds make equal moves."""
    chance = np.array([(seed * 0x9E3779B97F4A7C15 + 1) % 2**64 or 1], dtype=np.uint64)
    scene = _Scene(model.graph, model.memory, rent, place.choice, place.usage, place.best, chance)
    tree = _no_tree(model, moves.largest)
    kept, found = _search(scene, tree, moves, place.best_cost, model.cost(place.choice))
    if found:
        place.best_cost = model.cost(place.best)  # anew: a sum of differences drifts
    return kept


def _no_tree(model: FlatModel, largest: int) -> _Tree:
    def ints(value: int = 0) -> Ints:
        return np.full(model.nodes, value, dtype=np.int64)

    return _Tree(
        node=ints(), parent=ints(), link=ints(), fresh=ints(), place=ints(), mark=ints(-1), rim=ints(),
        value=np.zeros(len(model.graph.costs)),
        back=np.zeros((largest, int(model.sizes().max(initial=1))), dtype=np.int64),
    )  # fmt: skip


@compiled
def _search(scene: _Scene, tree: _Tree, moves: Moves, best_cost: float, cost: float) -> tuple[int, bool]:
    room = scene.memory.room
    over = _excess(scene.usage, room)
    kept, found = 0, False
    for stamp in range(moves.tries):
        size = min(moves.largest, int(np.exp(_random(scene.chance) * np.log(moves.largest + 0.999))))
        weight = 1.0 if _random(scene.chance) < 0.5 else 2.0 * _random(scene.chance)
        if over > 0:
            weight = np.exp(_random(scene.chance) * WIDEST_WEIGHT)
        count = _grow(scene, tree, stamp, size)
        for k in range(count):
            _own_values(scene, tree, stamp, tree.node[k], weight, moves.temperature)
        if not _choose(scene.graph, tree, count, scene.choice):
            continue
        more, more_rent = _difference(scene, tree, stamp, count)
        allowance = -moves.temperature * np.log(_random(scene.chance) + 1e-300)
        judged = more + moves.rent_weight * more_rent
        if judged - moves.penalty * over > allowance or more >= 0.5 * INFINITE_COST:
            continue
        _charge(scene, tree, count, np.int64(1))  # a literal would be compiled for each
        now = _excess(scene.usage, room)
        if judged + moves.penalty * (now - over) <= allowance:
            for k in range(count):
                scene.choice[tree.node[k]] = tree.fresh[k]
            cost += more
            over = now
            kept += 1
            if over == 0 and cost < best_cost:
                best_cost, found = cost, True
                for v in range(len(scene.best)):
                    scene.best[v] = scene.choice[v]
        else:
            _charge(scene, tree, count, np.int64(-1))
    return kept, found


@compiled
def _random(chance: NDArray[np.uint64]) -> float:
    """The next number in [0, 1), by xorshift64* (Vigna, 2016)."""
    x = chance[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    chance[0] = x
    return ((x * np.uint64(0x2545F4914F6CDD1D)) >> np.uint64(11)) * 2.0**-53


@compiled
def _excess(usage: Ints, room: Ints) -> int:
    """Memory over the limit, summed over times."""
    over = 0
    for t in range(len(room)):
        over += max(0, usage[t] - room[t])
    return over


@compiled
def _other(graph: Graph, e: int, v: int) -> int:
    """The end of edge e that isn't v."""
    return graph.b[e] if graph.a[e] == v else graph.a[e]


@compiled
def _pair(graph: Graph, e: int, v: int, mine: int, theirs: int) -> float:
    """Cost of edge e if v takes `mine` and its other end `theirs`."""
    b = graph.b[e]
    columns = graph.offset[b + 1] - graph.offset[b]
    if b == v:
        return graph.tables[graph.start[e] + theirs * columns + mine]
    return graph.tables[graph.start[e] + mine * columns + theirs]


@compiled
def _grow(scene: _Scene, tree: _Tree, stamp: int, size: int) -> int:
    """Grow an induced tree around a random node; its number of nodes."""
    graph = scene.graph
    inside, seen = 2 * stamp, 2 * stamp + 1
    v, through = int(_random(scene.chance) * (len(graph.offset) - 1)), -1
    count = wait = 0
    while True:
        tree.node[count], tree.place[v], tree.link[count] = v, count, through
        tree.parent[count] = _other(graph, through, v) if count else -1
        tree.mark[v] = inside
        count += 1
        for k in range(graph.near[v], graph.near[v + 1]):
            u = _other(graph, graph.around[k], v)
            if tree.mark[u] < inside:
                tree.mark[u] = seen
                tree.rim[wait] = u
                wait += 1
        if count == size:
            return count
        touching = 0
        while touching != 1:  # a node with two neighbours inside would close a cycle: it stays frozen
            if wait == 0:
                return count
            at = int(_random(scene.chance) * wait)
            v = tree.rim[at]
            wait -= 1
            tree.rim[at] = tree.rim[wait]
            touching = 0
            for k in range(graph.near[v], graph.near[v + 1]):
                if tree.mark[_other(graph, graph.around[k], v)] == inside:
                    touching += 1
                    through = graph.around[k]


@compiled
def _own_values(scene: _Scene, tree: _Tree, stamp: int, v: int, weight: float, temperature: float) -> None:
    """Into `value`: cost, rent and noise of each choice of v, with the edges to frozen neighbours."""
    graph, value = scene.graph, tree.value
    at, n = graph.offset[v], graph.offset[v + 1] - graph.offset[v]
    for i in range(n):
        value[at + i] = graph.costs[at + i] + weight * scene.rent[at + i]
        if temperature > 0.0:
            value[at + i] -= temperature * np.log(_random(scene.chance) + 1e-300)
    for q in range(graph.near[v], graph.near[v + 1]):
        e = graph.around[q]
        u = _other(graph, e, v)
        if tree.mark[u] != 2 * stamp:
            for i in range(n):
                value[at + i] += _pair(graph, e, v, i, scene.choice[u])


@compiled
def _choose(graph: Graph, tree: _Tree, count: int, choice: Ints) -> bool:
    """Into `fresh`: the best choices of the tree; whether any is new. Leaves first, then back from the root."""
    for k in range(count - 1, 0, -1):
        v, u, e = tree.node[k], tree.parent[k], tree.link[k]
        n, m = graph.offset[v + 1] - graph.offset[v], graph.offset[u + 1] - graph.offset[u]
        for j in range(m):
            least, arg = np.inf, 0
            for i in range(n):
                total = tree.value[graph.offset[v] + i] + _pair(graph, e, v, i, j)
                if total < least:
                    least, arg = total, i
            tree.value[graph.offset[u] + j] += least
            tree.back[k, j] = arg
    root = tree.node[0]
    tree.fresh[0] = np.argmin(tree.value[graph.offset[root] : graph.offset[root + 1]])
    is_new = tree.fresh[0] != choice[root]
    for k in range(1, count):
        tree.fresh[k] = tree.back[k, tree.fresh[tree.place[tree.parent[k]]]]
        is_new = is_new or tree.fresh[k] != choice[tree.node[k]]
    return is_new


@compiled
def _difference(scene: _Scene, tree: _Tree, stamp: int, count: int) -> tuple[float, float]:
    """What the new choices cost more, and what they pay more rent."""
    graph, choice, rent = scene.graph, scene.choice, scene.rent
    more = more_rent = 0.0
    for k in range(count):
        v = tree.node[k]
        new, old = tree.fresh[k], choice[v]
        more += graph.costs[graph.offset[v] + new] - graph.costs[graph.offset[v] + old]
        more_rent += rent[graph.offset[v] + new] - rent[graph.offset[v] + old]
        for q in range(graph.near[v], graph.near[v + 1]):
            e = graph.around[q]
            u = _other(graph, e, v)
            theirs = choice[u]
            if tree.mark[u] == 2 * stamp:
                if e != tree.link[k]:
                    continue  # counted at the child
                theirs = tree.fresh[tree.place[u]]
            more += _pair(graph, e, v, new, theirs) - _pair(graph, e, v, old, choice[u])
    return more, more_rent


@compiled
def _charge(scene: _Scene, tree: _Tree, count: int, sign: int) -> None:
    """Add to `usage` what the new choices use more (sign 1), or take it away again (-1)."""
    memory = scene.memory
    for k in range(count):
        v = tree.node[k]
        for q in range(memory.use[v], memory.use[v + 1]):
            more = memory.usages[memory.place[q] + tree.fresh[k]] - memory.usages[memory.place[q] + scene.choice[v]]
            if more != 0:
                for t in range(memory.first[q], memory.last[q]):
                    scene.usage[t] += sign * more
