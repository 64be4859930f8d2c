"""A model's forward graph with most repeats of its layers left out: the graph of distinct layers.

Of a run of equal layers the first two and the last are kept; what later layers read of those that are left out, they
read of the second. Rewriting, differentiating and pricing this graph takes as long as three layers take, and what a
class of layers costs, it costs in every repeat.

In: a `Program`, its layers. Out: a smaller `Program`, and how many layers each run lacks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from planner.core.graph import Graph, Op, Operand, Program
from planner.layers import Layers
from planner.trace import program_of

KEPT = 3
"""Layers of a run that are kept: one whose neighbour before is another, one whose neighbour after is, and one between.
[chosen]"""


@dataclass(frozen=True)
class Reduced:
    """A smaller program; `missing[k]`: layers that its k-th run of at least `KEPT` equal layers lacks."""

    program: Program
    missing: tuple[int, ...]

    def expanded(self, classes: Sequence[int]) -> tuple[int, ...] | None:
        """The classes of all layers, from those of the smaller program or of what was made of it by rewriting; None
        where its runs are others."""
        runs = [(c, len(list(members))) for c, members in groupby(classes)]
        long = [n for n, (_, count) in enumerate(runs) if count >= KEPT - 1]
        if len(long) < len(self.missing) or (len(long) > len(self.missing) and any(self.missing)):
            return None
        more = dict(zip(long, self.missing, strict=False))
        return tuple(c for n, (c, count) in enumerate(runs) for _ in range(count + more.get(n, 0)))


def reduced(program: Program, layers: Layers) -> Reduced:
    """The smaller program; the program itself where nothing repeats often enough."""
    runs = _runs(layers.classes)
    gone = {n: first + 1 for first, last in runs for n in range(first + 2, last - 1)}
    missing = tuple(last - first - KEPT for first, last in runs)
    if not gone:
        return Reduced(program, missing)
    forward = _without(program.forward, layers, gone)
    forward.check()
    return Reduced(program_of(program.kind, forward, program.microbatches, program.update), missing)


def _runs(classes: Sequence[int]) -> list[tuple[int, int]]:
    """[first, last) of every run of at least `KEPT` equal layers."""
    found: list[tuple[int, int]] = []
    at = 0
    for _, members in groupby(classes):
        count = len(list(members))
        if count >= KEPT:
            found.append((at, at + count))
        at += count
    return found


def _without(graph: Graph, layers: Layers, gone: Mapping[int, int]) -> Graph:
    """The graph without layers, each of which another stands for."""
    stands_for: dict[int, int] = {}
    dropped: set[int] = set()
    for layer, kept in gone.items():
        (a, b), (start, _) = layers.ranges[layer], layers.ranges[kept]
        for n in range(a, b):
            dropped.add(n)
            stands_for.update(zip(graph.ops[n].results, graph.ops[start + n - a].results, strict=True))
    ops = tuple(_reading(op, stands_for) for n, op in enumerate(graph.ops) if n not in dropped)
    outputs = tuple(replace(o, operand=_instead(o.operand, stands_for)) for o in graph.outputs)
    read = {v for op in ops for v in op.inputs} | {o.operand for o in outputs if isinstance(o.operand, int)}
    return replace(graph, ops=ops, outputs=outputs, inputs=tuple(i for i in graph.inputs if i.value in read))


def _reading(op: Op, stands_for: Mapping[int, int]) -> Op:
    if stands_for.keys().isdisjoint(op.inputs):
        return op
    return replace(op, operands=tuple(_instead(o, stands_for) for o in op.operands))


def _instead(operand: Operand, stands_for: Mapping[int, int]) -> Operand:
    return stands_for.get(operand, operand) if isinstance(operand, int) else operand
