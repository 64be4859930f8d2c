"""What fused operators of a group do whatever their strategies and the mesh: found once, priced on every mesh.

In: a group's operators. Out: `Fused`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from planner.core.graph import Graph
from planner.intraop.choices import Group
from planner.intraop.group_costs import op_work


@dataclass(frozen=True)
class Fused:
    """Fused operators.

    Attributes:
      outer: the values that they read and hand on.
      cold: those of them that are in no cache.
      work: FLOPs and transcendentals by the classes that they are divided over.
      reduces: how many of them reduce.
      results: how many results leave or are reduced.
    """

    outer: tuple[int, ...]
    cold: tuple[int, ...]
    work: tuple[tuple[frozenset[int], int, int], ...]
    reduces: int
    results: int

    @property
    def quiet(self) -> bool:
        """Whether nothing runs."""
        return not self.reduces and not any(flops for _, flops, _ in self.work)


def fused(graph: Graph, group: Group, ops: Sequence[int], beside: Iterable[int],
          cold: Callable[[Sequence[int], Sequence[int]], list[int]]) -> Fused:
    """See `Fused`. `beside`: others of the group that run and may read what these make; `cold`: which of the values
    that operators touch are in no cache."""
    by_op = {o.op: o for o in group.classes.ops}
    made = {r for n in ops for r in graph.ops[n].results}
    used_inside = {v for n in ops for v in graph.ops[n].inputs}
    used_outside = {v for n in beside for v in graph.ops[n].inputs}
    leaving = [v for v in sorted(made) if v not in used_inside or v in used_outside]
    outer = (*sorted(used_inside - made), *leaving)
    reducing = [n for n in ops if by_op[n].reduced]
    work: dict[frozenset[int], tuple[int, int]] = {}
    for n in ops:
        own, factors = op_work(graph, n), frozenset(by_op[n].factors)
        flops, transcendentals = work.get(factors, (0, 0))
        work[factors] = flops + own.flops, transcendentals + own.transcendentals
    reduced = {r for n in reducing for r in graph.ops[n].results}
    return Fused(outer, tuple(cold(ops, outer)), tuple((f, *w) for f, w in work.items()), len(reducing),
                 len(reduced.union(leaving)))
