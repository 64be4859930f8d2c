"""Cut the forward graph into contiguous layers, and recognise the ones that repeat.

Alpa (OSDI'22, §5.2, eq. 6) clusters operators by a dynamic program that minimises the bytes a layer receives under a
bound on its FLOPs. We first look for the repeats that deep models have anyway (tandem repeats of the operator
sequence), make one layer per repeat, cut where fewest bytes cross, and run the dynamic program on what lies between.

In: a `Program`, and which values cross where. Out: `Layers`: cut positions, and a class per layer; layers of a class
have equal operators (forward and backward), operand structure and shapes, so that solving one solves all.
"""

from collections.abc import Hashable, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from planner.core.graph import Graph, Value
from planner.costs.memory import value_bytes
from planner.layer_classes import classify
from planner.program_index import ProgramIndex, torn_bytes
from planner.rules import flops_by_op

IMBALANCE = 0.6
"""Alpa's δ: a layer between repeats may have (1 + δ) times the mean FLOPs. [chosen: Alpa leaves it to the user]"""

MAX_REST_LAYERS = 16
"""Layers made of operators that do not repeat, at most. [chosen: Alpa's evaluation uses 8 to 16 layers in all]"""


@dataclass(frozen=True)
class Layers:
    """`cuts[i]` is the first forward operator of layer i, `cuts[-1]` the operator count; `classes[i]` its class."""

    cuts: tuple[int, ...]
    classes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.classes)

    @cached_property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """[first, last) forward operators per layer."""
        return tuple(pairwise(self.cuts))

    @cached_property
    def distinct(self) -> tuple[tuple[int, int], ...]:
        """[first, last) forward operators of the first layer of each class."""
        return tuple(self.ranges[self.representative(c)] for c in range(max(self.classes) + 1))

    def representative(self, layer_class: int) -> int:
        """The first layer of a class."""
        return self.classes.index(layer_class)


def cluster_layers(index: ProgramIndex, target: int | None = None) -> Layers:
    """Cut a program into layers.

    Args:
      index: the program.
      target: how many layers operators that do not repeat are cut into, at most (default: as many as keeps them as
        heavy as the repeated layers, up to `MAX_REST_LAYERS`).
    """
    cuts = cut_positions(index, target)
    whole = len(cuts) == 2 and index.program.kind == "step"
    return Layers(cuts, (0,) if whole else classify(index, cuts))


def cut_positions(index: ProgramIndex, target: int | None = None) -> tuple[int, ...]:
    """Where `cluster_layers` cuts."""
    forward = index.program.forward
    count = len(forward.ops)
    if count == 0:
        return (0,)
    if index.program.kind == "step":  # forward and backward are interleaved by the user: there is nothing to slice
        return (0, count)
    flops = np.array(flops_by_op(forward), dtype=np.float64) + 1.0
    cuts = {0, count}
    pending = [(0, count)]
    rest: list[tuple[int, int]] = []
    tokens = _tokens(forward)
    cut_bytes, torn = crossing_bytes(index), torn_bytes(index)
    while pending:
        first, last = pending.pop()
        repeat = _best_repeat(tokens, flops, first, last) if last - first > 3 else None
        if repeat is None:
            rest.append((first, last))
            continue
        marks = mended_ends(_align(repeat, cut_bytes, torn), first, last, torn)
        cuts.update(marks)
        pending += [(a, b) for a, b in ((first, marks[0]), (marks[-1], last)) if a < b]
    typical, unfit = _typical(flops, cuts, rest), set(np.flatnonzero(torn).tolist())
    for first, last in rest:
        cuts.update(_nearest(cut, range(first, last + 1), unfit, {first, last}) for cut in
                    _cut_rest(forward, flops, first, last, typical, target))
    return tuple(sorted(cuts))


def _tokens(graph: Graph) -> list[int]:
    """A number per operator, equal for those that are alike: in primitive, result types, operand types."""
    seen: dict[Hashable, int] = {}
    known: dict[int, int] = {}  # of a kind of operators, which also have equal parameters
    values = graph.values
    for kind, op in zip(graph.kinds, graph.ops, strict=True):
        if kind not in known:
            types = (values[o] if isinstance(o, int) else Value(o.shape, o.dtype) for o in (*op.results, *op.operands))
            known[kind] = seen.setdefault((op.primitive, len(op.results), *types), len(seen))
    return [known[kind] for kind in graph.kinds]


def crossing_bytes(index: ProgramIndex) -> NDArray[np.float64]:
    """Per position p, bytes of the forward values made before operator p and read at or after it; [operators + 1]."""
    values = index.program.micro.values
    owner, made, read = index.spans
    crosses = (read > made) & (made >= 0)
    size = np.array([value_bytes(values[int(v)]) for v in owner[crosses]], dtype=np.float64)
    change = np.zeros(len(index.program.forward.ops) + 2)
    np.add.at(change, made[crosses] + 1, size)
    np.subtract.at(change, read[crosses] + 1, size)
    return np.cumsum(change)[: len(index.program.forward.ops) + 1]


@dataclass(frozen=True, slots=True)
class _Repeat:
    start: int
    period: int
    length: int  # operators covered, at least two periods


def _best_repeat(tokens: Sequence[int], flops: NDArray[np.float64], first: int, last: int) -> _Repeat | None:
    """The tandem repeat that covers the most FLOPs; of those nearly as good, the shortest period."""
    seq = np.array(tokens[first:last])
    work = np.concatenate([[0.0], np.cumsum(flops[first:last])])
    found: list[tuple[float, _Repeat]] = []
    for period in _candidate_periods(seq, flops[first:last]):
        same = np.concatenate([[False], seq[:-period] == seq[period:], [False]])
        edges = np.flatnonzero(same[1:] != same[:-1])
        for a, b in zip(edges[::2], edges[1::2], strict=True):
            length = int(b - a) + period
            if length >= 2 * period:
                found.append((float(work[a + length] - work[a]), _Repeat(first + int(a), period, length)))
    if not found:
        return None
    best = max(w for w, _ in found)
    if best < 0.05 * work[-1]:
        return None
    return min((r for w, r in found if w >= 0.9 * best), key=lambda r: (r.period, r.start))


def _candidate_periods(seq: NDArray[np.int64], flops: NDArray[np.float64]) -> list[int]:
    """Distances between equal heavy operators, up to three occurrences apart."""
    heavy = np.flatnonzero(flops >= np.quantile(flops, 0.8))
    places: dict[int, list[int]] = {}
    for at in heavy:
        places.setdefault(int(seq[at]), []).append(int(at))
    periods = {b - a for at in places.values() for hop in range(1, 9) for a, b in zip(at, at[hop:], strict=False)}
    return sorted(p for p in periods if 2 < p <= len(seq) // 2)[:200]


def _align(repeat: _Repeat, cut_bytes: NDArray[np.float64], torn: NDArray[np.float64]) -> list[int]:
    """Cut positions of a repeat at the phase where least is torn, and of those where fewest bytes cross; the earliest
    such phase with most whole periods."""
    most = repeat.length // repeat.period
    phases = [p for p in range(repeat.period) if (repeat.length - p) // repeat.period >= max(most - 1, 2)]

    def cost(phase: int) -> tuple[float, float, int, int]:
        n = (repeat.length - phase) // repeat.period
        at = [repeat.start + phase + k * repeat.period for k in range(n + 1)]
        return float(np.median(torn[at])), float(np.median(cut_bytes[at])), -n, phase

    phase = min(phases, key=cost) if phases else 0
    n = (repeat.length - phase) // repeat.period
    return [repeat.start + phase + k * repeat.period for k in range(n + 1)]


def mended_ends(marks: Sequence[int], first: int, last: int, torn: NDArray[np.float64]) -> list[int]:
    """The marks, but the first and the last, where the repeat meets other operators, at the closest position within
    [first, last] that tears no more than the others do."""
    if len(marks) < 3:
        return list(marks)
    usual = float(np.median(torn[marks[1:-1]]))
    unfit = set(np.flatnonzero(torn > usual).tolist())
    before, after = range(first, marks[1]), range(marks[-2] + 1, last + 1)
    return [_nearest(marks[0], before, unfit, {first}), *marks[1:-1], _nearest(marks[-1], after, unfit, {last})]


def _typical(flops: NDArray[np.float64], cuts: set[int], rest: Sequence[tuple[int, int]]) -> float:
    """FLOPs that a layer should have: the median of the repeats, else the total over `MAX_REST_LAYERS`."""
    outside = set(rest)
    sizes = [float(flops[a:b].sum()) for a, b in pairwise(sorted(cuts)) if (a, b) not in outside]
    return float(np.median(sizes)) if sizes else float(flops.sum()) / MAX_REST_LAYERS


def _cut_rest(graph: Graph, flops: NDArray[np.float64], first: int, last: int, typical: float, target: int | None
              ) -> list[int]:
    total = float(flops[first:last].sum())
    parts = round(total / max(typical, 1.0)) if target is None else target
    parts = int(np.clip(parts, 1, min(MAX_REST_LAYERS, last - first)))
    if parts == 1:
        return [first, last]
    return balance(graph, flops, first, last, parts)


def _nearest(cut: int, positions: range, unfit: Set[int], ends: Set[int]) -> int:
    """The fit position closest to a cut; ends are always fit."""
    return min((p for p in positions if p in ends or p not in unfit), key=lambda p: (abs(p - cut), p))


def balance(graph: Graph, flops: NDArray[np.float64], first: int, last: int, parts: int) -> list[int]:
    """Alpa's equation 6: cut operators [first, last) into `parts` layers, minimising the largest bytes received by a
    layer, each layer at most (1 + δ) of the mean FLOPs; ties go to even FLOPs. Returns the cut positions, ends
    included."""
    n = last - first
    work = np.concatenate([[0.0], np.cumsum(flops[first:last])])
    limit = (1 + IMBALANCE) * work[-1] / parts
    limit = max(limit, float(flops[first:last].max()))
    received = _received(graph, first, last)
    best = np.full((parts + 1, n + 1), np.inf)
    spread = np.full((parts + 1, n + 1), np.inf)
    back = np.zeros((parts + 1, n + 1), dtype=np.int64)
    best[0, 0] = spread[0, 0] = 0.0
    for r in range(1, parts + 1):
        for k in range(1, n + 1):
            low = int(np.searchsorted(work, float(work[k] - limit - 1e-6)))
            starts = np.arange(min(low, k - 1), k)
            cost = np.maximum(best[r - 1, starts], received[starts, k - 1])
            even = spread[r - 1, starts] + (work[k] - work[starts]) ** 2
            pick = int(np.lexsort((even, cost))[0])
            best[r, k], spread[r, k], back[r, k] = cost[pick], even[pick], starts[pick]
    cuts, k = [last], n
    for r in range(parts, 0, -1):
        k = int(back[r, k])
        cuts.append(first + k)
    return sorted(set(cuts) | {first})


def _received(graph: Graph, first: int, last: int) -> NDArray[np.float32]:
    """received[i, k]: bytes that operators [first+i, first+k] read and earlier operators of the graph made."""
    n = last - first
    made = {v: p for p, op in enumerate(graph.ops) for v in op.results}
    table = np.zeros((n, n), dtype=np.float32)
    latest: dict[int, int] = {}
    for k in range(n):
        if k:
            table[:k, k] = table[:k, k - 1]
        for v in dict.fromkeys(graph.ops[first + k].inputs):
            if v not in made:
                continue
            start = max(made[v] - first, latest.get(v, -1)) + 1
            table[max(start, 0): k + 1, k] += value_bytes(graph.values[v])
            latest[v] = k
    return table
