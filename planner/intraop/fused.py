"""What fused operators of a group do whatever their strategies and the mesh: found once, priced on every mesh.

A compiler fuses elementwise, layout and reduction operators into kernels, of which inner values touch no memory. Either
one kernel makes all that leaves, or each result has a kernel of its own (`core.hardware.Device.kernel_per_result`, XLA
on CPU) that reads what it needs again: a softmax passes over its operand for the largest, for the exponentials, for
their sum and for the quotient.

In: a group's operators. Out: `Fused`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from planner.core.graph import Graph
from planner.intraop.choices import Group
from planner.intraop.group_costs import TRANSCENDENTAL, op_work

VIEWS = frozenset({"reshape", "squeeze", "expand_dims", "broadcast_in_dim", "stop_gradient", "optimization_barrier",
                   "name"})
"""Operators whose results are never written by kernels of their own: readers read what these read."""

Cold = Callable[[Sequence[int], Sequence[int]], list[int]]
"""Which of the values that operators touch are in no cache."""


@dataclass(frozen=True)
class Kernel:
    """One kernel, or several that are priced as one.

    Attributes:
      outer: the values that it reads and writes.
      cold: those of them that are in no cache.
      work: FLOPs and transcendentals by the classes that they are divided over.
      launches: how often one is started.
    """

    outer: tuple[int, ...]
    cold: tuple[int, ...]
    work: tuple[tuple[frozenset[int], int, int], ...]
    launches: int


@dataclass(frozen=True)
class Fused:
    """Fused operators: the values that they read and hand on; the kernels that run, none where there is only layout."""

    outer: tuple[int, ...]
    kernels: tuple[Kernel, ...]


def fused(graph: Graph, group: Group, ops: Sequence[int], beside: Iterable[int], cold: Cold, *, each: bool) -> Fused:
    """See `Fused`. `beside`: others of the group that run and may read what these make; `each`: whether each result has
    a kernel of its own."""
    reducing = {o.op for o in group.classes.ops if o.reduced}.intersection(ops)
    made = {r for n in ops for r in graph.ops[n].results}
    used_inside = {v for n in ops for v in graph.ops[n].inputs}
    used_outside = {v for n in beside for v in graph.ops[n].inputs}
    leaving = [v for v in sorted(made) if v not in used_inside or v in used_outside]
    outer = (*sorted(used_inside - made), *leaving)
    work = _work(graph, group, ops)
    if not reducing and not any(flops for _, flops, _ in work):
        return Fused(outer, ())
    if not each:
        return Fused(outer, (Kernel(outer, tuple(cold(ops, outer)), work, 1 + len(reducing)),))
    return Fused(outer, _kernels(graph, group, ops, {*leaving, *_read_elsewhere(graph, ops)}, reducing, cold))


def _work(graph: Graph, group: Group, ops: Iterable[int]) -> tuple[tuple[frozenset[int], int, int], ...]:
    """See `Kernel.work`."""
    factors = {o.op: frozenset(o.factors) for o in group.classes.ops}
    found: dict[frozenset[int], tuple[int, int]] = {}
    for n in ops:
        own = op_work(graph, n)
        flops, transcendentals = found.get(factors[n], (0, 0))
        found[factors[n]] = flops + own.flops, transcendentals + own.transcendentals
    return tuple((f, *w) for f, w in found.items())


def _read_elsewhere(graph: Graph, ops: Sequence[int]) -> set[int]:
    """Values that operators of the same phase and another group read."""
    mine = set(ops)
    return {r for n in ops for r in graph.ops[n].results
            if any(m not in mine and graph.ops[m].phase is graph.ops[n].phase for m in graph.consumers.get(r, ()))}


def _kernels(graph: Graph, group: Group, ops: Sequence[int], leaving: Set[int], reducing: Set[int], cold: Cold
             ) -> tuple[Kernel, ...]:
    """A kernel for each operator whose result is written: what leaves, what is reduced, and what is dear and read more
    than once. All else is made again wherever it is read."""
    maker = {r: n for n in ops for r in graph.ops[n].results}
    reads = [v for n in ops for v in graph.ops[n].inputs]
    dear = {v for v, n in maker.items() if graph.ops[n].primitive in TRANSCENDENTAL and reads.count(v) > 1}
    reduced = {v for v, n in maker.items() if n in reducing}
    viewed = {_viewed(graph, maker, v) for v in leaving}
    written = reduced | dear | {v for v in viewed if v in maker and graph.ops[maker[v]].inputs}
    found: list[Kernel] = []
    for last in sorted({maker[v] for v in written}):
        inside, waiting, outer = {last}, [last], set(written.intersection(graph.ops[last].results))
        while waiting:
            for v in graph.ops[waiting.pop()].inputs:
                if v in maker and v not in written:
                    if maker[v] not in inside:
                        inside.add(maker[v])
                        waiting.append(maker[v])
                else:
                    outer.add(v)
        run, touched = sorted(inside), tuple(sorted(outer))
        found.append(Kernel(touched, tuple(cold(run, touched)), _work(graph, group, run), 1))
    return tuple(found)


def _viewed(graph: Graph, maker: Mapping[int, int], value: int) -> int:
    """What is read by who reads a value: that itself, or what it is a view of."""
    while value in maker and graph.ops[maker[value]].primitive in VIEWS and graph.ops[maker[value]].inputs:
        value = graph.ops[maker[value]].inputs[0]
    return value
