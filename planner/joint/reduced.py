"""A model's forward graph with most repeats of its layers left out: the graph of distinct layers.

Of a run of equal layers the first two and the last are kept; what later layers read of those that are left out, they
read of the second. Rewriting, differentiating and pricing this graph takes as long as three layers take, and what a
class of layers costs, it costs in every repeat.

In: a `Program`, its layers. Out: a smaller `Program`, and how many layers each run of equal ones lacks.
"""

from collections.abc import Callable, Mapping, Sequence
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
    """A smaller program.

    Attributes:
      count: its layers.
      repeats: (layer, how many more there are) of every run of at least `KEPT` equal layers: one that stands for them.
    """

    program: Program
    count: int
    repeats: tuple[tuple[int, int], ...]

    def expanded(self, classes: Sequence[int]) -> tuple[int, ...] | None:
        """The classes of all layers, from those of the smaller program or of what was made of it by rewriting; None
        where it falls into other layers, and it can't be told which of them repeat."""
        if len(classes) == self.count:
            more = dict(self.repeats)
            return tuple(c for n, c in enumerate(classes) for _ in range(1 + more.get(n, 0)))
        runs = [(c, len(list(members))) for c, members in groupby(classes)]
        long = [n for n, (_, count) in enumerate(runs) if count >= KEPT - 1]
        missing = [count for _, count in self.repeats]
        if len(long) < len(missing) or (len(long) > len(missing) and any(missing)):
            return None
        more = dict(zip(long, missing, strict=False))
        return tuple(c for n, (c, count) in enumerate(runs) for _ in range(count + more.get(n, 0)))


def reduced(program: Program, layers: Layers, layered: Callable[[Program], Layers]) -> tuple[Reduced, Layers]:
    """The smaller program, and its layers; the program itself where nothing repeats often enough, or the smaller one
    does not fall into the layers that were kept.

    Args:
      program: the whole.
      layers: of the program.
      layered: how programs fall into layers.
    """
    small = _smaller(program, layers)
    own = layers if small.program is program else layered(small.program)
    if _numbered(small.expanded(own.classes) or ()) == _numbered(layers.classes):
        return small, own
    return Reduced(program, len(layers.classes), ()), layers


def _numbered(classes: Sequence[int]) -> list[int]:
    """Classes by the place where they come first."""
    return [list(classes).index(c) for c in classes]


def _smaller(program: Program, layers: Layers) -> Reduced:
    gone: dict[int, int] = {}
    repeats: list[tuple[int, int]] = []
    for first, last in _runs(layers.classes):
        repeats.append((first + 1 - len(gone), last - first - KEPT))
        gone.update(dict.fromkeys(range(first + 2, last - 1), first + 1))
    count = len(layers.classes) - len(gone)
    if not gone:
        return Reduced(program, count, tuple(repeats))
    forward = _without(program.forward, layers, gone)
    forward.check()
    return Reduced(program_of(program.kind, forward, program.microbatches, program.update), count, tuple(repeats))


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
