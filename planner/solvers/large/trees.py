"""Local search whose move is an exact re-choice of a whole random tree of nodes, everything else frozen.

A connected set of nodes that induces a tree is grown at random around a node; with its surroundings frozen, its best
choices under cost + rent + noise are found by dynamic programming from the leaves up. Of domains of size d and a tree
of k nodes that searches d^k choices in k d^2 steps. The move is kept if memory stays within the limit (or comes closer
to it), and the cost falls or rises by no more than an exponentially distributed allowance (Metropolis).

In: a `FlatModel`, a choice. Out: the choice changed in place, the best one seen; compiled, and releases the GIL.
"""

from dataclasses import dataclass

import numba
import numpy as np

from planner.solvers.large.flat import Floats, FlatModel, Ints


@dataclass(frozen=True, slots=True)
class Moves:
    """How to search.

    Attributes:
      count: moves to try.
      largest: nodes of the largest tree; sizes are spread evenly on a log scale.
      temperature: mean rise in cost that is allowed, and the noise on a choice's cost.
      rent_weight: part of the rent that counts when moves are judged, 0 to 1.
      seed: of the random numbers.
    """

    count: int
    largest: int
    temperature: float
    rent_weight: float
    seed: int


@dataclass
class Place:
    """Where a search stands: choice [nodes], its usage over the model's grid, and its best feasible choice yet."""

    choice: Ints
    usage: Ints
    best: Ints
    best_cost: float


def search_trees(model: FlatModel, place: Place, rent: Floats, moves: Moves) -> int:
    """Try moves from `place`, which is changed; the number of moves kept."""
    kept, place.best_cost = _search(
        model.offset, model.costs, model.a, model.b, model.start, model.tables, model.near, model.around, model.use,
        model.first, model.last, model.place, model.usages, model.room, place.choice, place.usage, place.best,
        place.best_cost, model.cost(place.choice), rent, moves.count, moves.largest, moves.temperature,
        moves.rent_weight, moves.seed,
    )  # fmt: skip
    return kept


@numba.njit(cache=True, nogil=True)
def _charge(
    v: int, old: int, new: int, use: Ints, first: Ints, last: Ints, place: Ints, usages: Ints, usage: Ints
) -> None:
    """Replace a node's memory."""
    for k in range(use[v], use[v + 1]):
        more = usages[place[k] + new] - usages[place[k] + old]
        if more != 0:
            for t in range(first[k], last[k]):
                usage[t] += more


@numba.njit(cache=True, nogil=True)
def _grow(
    root: int, size: int, near: Ints, around: Ints, a: Ints, b: Ints, mark: Ints, stamp: int, tree: Ints,
    parent: Ints, link: Ints, rim: Ints, rim_link: Ints,
) -> int:  # fmt: skip
    """Grow an induced tree around `root`; mark[v] = 2 * stamp for its nodes, 2 * stamp + 1 for others looked at."""
    tree[0], parent[0], link[0] = root, -1, -1
    mark[root] = 2 * stamp
    count, wait = 1, 0
    for k in range(near[root], near[root + 1]):
        e = around[k]
        u = b[e] if a[e] == root else a[e]
        rim[wait] = u
        wait += 1
        mark[u] = 2 * stamp + 1
    while wait > 0 and count < size:
        pick = np.random.randint(wait)
        v = rim[pick]
        wait -= 1
        rim[pick] = rim[wait]
        inside, through = 0, -1
        for k in range(near[v], near[v + 1]):
            e = around[k]
            u = b[e] if a[e] == v else a[e]
            if mark[u] == 2 * stamp:
                inside += 1
                through = e
        if inside != 1:
            continue
        up = b[through] if a[through] == v else a[through]
        tree[count], link[count] = v, through
        parent[count] = up
        mark[v] = 2 * stamp
        count += 1
        for k in range(near[v], near[v + 1]):
            e = around[k]
            u = b[e] if a[e] == v else a[e]
            if mark[u] < 2 * stamp:
                mark[u] = 2 * stamp + 1
                rim[wait] = u
                wait += 1
    return count


@numba.njit(cache=True, nogil=True)
def _search(
    offset: Ints, costs: Floats, a: Ints, b: Ints, start: Ints, tables: Floats, near: Ints, around: Ints,
    use: Ints, first: Ints, last: Ints, place: Ints, usages: Ints, room: Ints,
    choice: Ints, usage: Ints, best: Ints, best_cost: float, cost: float, rent: Floats,
    count: int, largest: int, temperature: float, rent_weight: float, seed: int,
) -> tuple[int, float]:  # fmt: skip
    np.random.seed(seed)
    nodes = len(offset) - 1
    mark = np.full(nodes, -1, dtype=np.int64)
    tree, parent, link = np.empty(nodes, np.int64), np.empty(nodes, np.int64), np.empty(nodes, np.int64)
    rim = np.empty(nodes, np.int64)
    slot = np.empty(nodes, np.int64)
    value = np.empty(len(costs))
    take = np.empty(len(costs), np.int64)  # best choice of a node per choice of its parent, at the node's `slot_take`
    widest = 0
    for v in range(nodes):
        widest = max(widest, offset[v + 1] - offset[v])
    back = np.empty(largest * widest, np.int64)
    fresh = np.empty(nodes, np.int64)
    over = 0.0
    for t in range(len(room)):
        over += max(0, usage[t] - room[t])
    kept = 0
    for step in range(count):
        size = min(largest, int(np.exp(np.random.random() * np.log(largest + 0.999))))
        weight = 1.0 if np.random.random() < 0.5 else 2.0 * np.random.random()
        if over > 0:
            weight = np.exp(np.random.random() * 4.0)
        found = _grow(
            np.random.randint(nodes), size, near, around, a, b, mark, step, tree, parent, link, rim, take
        )
        for k in range(found):
            slot[tree[k]] = k
        # own costs, with frozen neighbours
        for k in range(found):
            v = tree[k]
            n = offset[v + 1] - offset[v]
            at = offset[v]
            for i in range(n):
                value[at + i] = costs[at + i] + weight * rent[at + i]
                if temperature > 0.0:
                    value[at + i] -= temperature * np.log(np.random.random() + 1e-300)
            for q in range(near[v], near[v + 1]):
                e = around[q]
                is_a = a[e] == v
                u = b[e] if is_a else a[e]
                if mark[u] == 2 * step:
                    continue
                m = offset[u + 1] - offset[u]
                for i in range(n):
                    value[at + i] += tables[start[e] + i * m + choice[u]] if is_a else tables[
                        start[e] + choice[u] * n + i
                    ]
        # up
        for k in range(found - 1, 0, -1):
            v, u, e = tree[k], parent[k], link[k]
            n, m = offset[v + 1] - offset[v], offset[u + 1] - offset[u]
            is_a = a[e] == v
            for j in range(m):
                least, arg = np.inf, 0
                for i in range(n):
                    pair = tables[start[e] + i * m + j] if is_a else tables[start[e] + j * n + i]
                    total = value[offset[v] + i] + pair
                    if total < least:
                        least, arg = total, i
                value[offset[u] + j] += least
                back[k * widest + j] = arg
        # down
        root = tree[0]
        least, arg = np.inf, 0
        for i in range(offset[root + 1] - offset[root]):
            if value[offset[root] + i] < least:
                least, arg = value[offset[root] + i], i
        fresh[0] = arg
        moved = 1 if arg != choice[root] else 0
        for k in range(1, found):
            fresh[k] = back[k * widest + fresh[slot[parent[k]]]]
            if fresh[k] != choice[tree[k]]:
                moved += 1
        if moved == 0:
            continue
        # what changes
        more = more_rent = 0.0
        for k in range(found):
            v, new, old = tree[k], fresh[k], choice[tree[k]]
            more += costs[offset[v] + new] - costs[offset[v] + old]
            more_rent += rent[offset[v] + new] - rent[offset[v] + old]
            for q in range(near[v], near[v + 1]):
                e = around[q]
                is_a = a[e] == v
                u = b[e] if is_a else a[e]
                inside = mark[u] == 2 * step
                if inside and not is_a:
                    continue
                other = fresh[slot[u]] if inside else choice[u]
                m = offset[u + 1] - offset[u]
                n = offset[v + 1] - offset[v]
                if is_a:
                    more += tables[start[e] + new * m + other] - tables[start[e] + old * m + choice[u]]
                else:
                    more += tables[start[e] + other * n + new] - tables[start[e] + choice[u] * n + old]
        allowance = 0.0
        if temperature > 0.0:
            allowance = -temperature * np.log(np.random.random() + 1e-300)
        if over == 0.0 and more + rent_weight * more_rent > allowance:
            continue
        if over > 0.0 and more > 1e17:
            continue
        for k in range(found):
            _charge(tree[k], choice[tree[k]], fresh[k], use, first, last, place, usages, usage)
        now = 0.0
        for t in range(len(room)):
            now += max(0, usage[t] - room[t])
        if now < over or (now <= over and more + rent_weight * more_rent <= allowance):
            for k in range(found):
                choice[tree[k]] = fresh[k]
            cost += more
            over = now
            kept += 1
            if over == 0.0 and cost < best_cost:
                best_cost = cost
                best[:] = choice
        else:
            for k in range(found):
                _charge(tree[k], fresh[k], choice[tree[k]], use, first, last, place, usages, usage)
    return kept, best_cost
