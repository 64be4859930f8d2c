"""What a recomputed layer runs again: the forward operators that its backward needs, from what enters the layer or is
kept of it.

Recomputing everything keeps what enters the layer (Chen et al., arXiv:1604.06174), recomputing selected tensors keeps
some of its values as well (Korthikanti et al., arXiv:2205.05198, section 5).

In: a graph, the operators of a layer, the values that are kept. Out: operators.
"""

from collections.abc import Iterable, Set
from enum import StrEnum

from planner.core.graph import Graph, Phase


class Recompute(StrEnum):
    """How much of a layer's forward its backward runs again."""

    NONE = "none"
    SELECTED = "selected"
    ALL = "all"


def run_again(graph: Graph, layer: Iterable[int], kept: Set[int] = frozenset()) -> tuple[int, ...]:
    """The forward operators of a layer whose results its backward operators need, however indirectly, in order. What
    is `kept` is there, and so is what makes it."""
    ops = sorted(layer)
    forward = [n for n in ops if graph.ops[n].phase is Phase.FORWARD]
    made = {v for n in forward for v in graph.ops[n].results if v not in kept}
    wanted = {v for n in ops if graph.ops[n].phase is Phase.BACKWARD for v in graph.ops[n].inputs if v in made}
    chosen: list[int] = []
    for n in reversed(forward):
        if wanted.intersection(graph.ops[n].results):
            chosen.append(n)
            wanted.update(v for v in graph.ops[n].inputs if v in made)
    return tuple(reversed(chosen))
