"""A stage as a `core.problem.Problem`: one frontier point per layer, the fastest stage that fits.

Node l is layer l; its strategies are points, cost whole picoseconds of a step. Neighbours must agree on the state
between them (forbidden pairs). Time runs over the layers 0 to L - 1, each its own point in time, and L, when gradients
are combined:

    held bytes      of node l                          over [0, L)
    working bytes   of a copy of node l                over [l, l + 1)
    sync bytes      of another copy                    over [L, L + 1)

A node has one interval, so that working and sync bytes are on copies, tied to it by an edge; a copy has one strategy
per distinct size. Copies that can't decide are left out: working bytes that never exceed what some layer always needs,
sync bytes where even the largest fit. What is always needed is on a
node of its own with one strategy. Bytes and picoseconds are rounded up.

In: `Points` per layer, the limit, and which points are worth looking at. Out: a `StageProblem`, which knows the way
back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor

import numpy as np
from numpy.typing import NDArray

from planner.core.problem import INFINITE_COST, Edge, Node, Problem
from planner.intraop.points import Array, Points

PS = 1e12
"""Picoseconds in a second."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class StageProblem:
    """The problem, and per layer its strategies: [strategy, (row, state before, state after)]. Node L is what
    is always needed; those after it are copies: `copies[c]` gives (layer, strategy of the copy per strategy of the
    layer)."""

    problem: Problem
    strategies: tuple[Ints, ...]
    copies: tuple[tuple[int, Ints], ...]

    def choice(self, rows: Sequence[int], states: Sequence[int]) -> tuple[int, ...]:
        """A walk as a choice per node; -1 where the problem lacks its point."""
        picks: list[int] = []
        for layer, (g, i, o) in enumerate(zip(rows, states[:-1], states[1:], strict=True)):
            found = np.flatnonzero((self.strategies[layer] == (g, i, o)).all(axis=1))
            picks.append(int(found[0]) if len(found) else -1)
        return (*picks, 0, *(int(of[picks[layer]]) if picks[layer] >= 0 else -1 for layer, of in self.copies))

    def walk(self, choice: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Rows and boundary states of a choice."""
        at = [tuple(map(int, own[pick])) for own, pick in zip(self.strategies, choice, strict=False)]
        return tuple(g for g, _, _ in at), (at[0][1], *(o for _, _, o in at))


def stage_problem(layers: Sequence[Points], open_points: Sequence[NDArray[np.bool_]], limit_bytes: float
                  ) -> StageProblem:
    """The problem over the open points of each layer ([row, state before, state after], True where open)."""
    strategies = tuple(_undominated(p, np.argwhere(keep)) for p, keep in zip(layers, open_points, strict=True))
    count, limit = len(layers), floor(limit_bytes)
    at = [(p, tuple(own.T)) for p, own in zip(layers, strategies, strict=True)]
    working = [_up(p.working_bytes[x]) for p, x in at]
    syncing = [_up(p.sync_bytes[x]) for p, x in at]
    needed = max(int(w.min()) for w in working)
    copied = [((n, n + 1), n, np.maximum(w, needed) - needed) for n, w in enumerate(working) if int(w.max()) > needed]
    if sum(int(y.max()) for y in syncing) > limit:
        copied += [((count, count + 1), n, y) for n, y in enumerate(syncing)]
    nodes = [Node((0, count), _whole(p.step_s[x] * PS), _whole(p.held_bytes[x])) for p, x in at]
    edges = [Edge(n, n + 1, _forbidden(before[:, 2][:, None] != after[:, 1][None, :]))
             for n, (before, after) in enumerate(zip(strategies[:-1], strategies[1:], strict=True))]
    nodes.append(Node((0, count), (0,), (needed,)))
    copies: list[tuple[int, Ints]] = []
    for span, layer, sizes in copied:
        distinct, of = np.unique(sizes, return_inverse=True)
        edges.append(Edge(layer, len(nodes), _forbidden(of[:, None] != np.arange(len(distinct))[None, :])))
        nodes.append(Node(span, (0,) * len(distinct), tuple(distinct.tolist())))
        copies.append((layer, of.astype(np.int64)))
    return StageProblem(Problem("stage", tuple(nodes), tuple(edges), limit), strategies, tuple(copies))


def _undominated(p: Points, found: Ints) -> Ints:
    """Without points that are in no respect better than another between the same states (of equals, the first stays).

    A walk keeps its length in every sum and every maximum, or shortens it, when such a point is replaced.
    """
    x = tuple(found.T)
    sizes = np.stack([p.step_s[x], p.held_bytes[x], p.working_bytes[x], p.sync_bytes[x]], axis=1)
    keep = np.ones(len(found), dtype=bool)
    states = found[:, 1] * p.step_s.shape[2] + found[:, 2]
    order = np.lexsort((np.arange(len(found)), *sizes.T[::-1], states))
    for group in np.split(order, np.flatnonzero(np.diff(states[order])) + 1):
        beaten = (sizes[group][None, :, :] <= sizes[group][:, None, :]).all(axis=2)
        keep[group] = ~np.tril(beaten, -1).any(axis=1)  # sorted: only an earlier one can be as good in all respects
    return found[keep]


def _forbidden(pairs: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(np.where(pairs, INFINITE_COST, 0).ravel().tolist())


def _up(values: Array) -> Ints:
    return np.ceil(values).astype(np.int64)


def _whole(values: Array) -> tuple[int, ...]:
    return tuple(_up(values).tolist())
