"""What a recomputed layer runs again: the forward operators that its backward needs, from what enters the layer.

In: a graph and the operators of a layer. Out: operators. Source: Chen et al., arXiv:1604.06174.
"""

from collections.abc import Iterable

from planner.core.graph import Graph, Phase


def run_again(graph: Graph, layer: Iterable[int]) -> tuple[int, ...]:
    """The forward operators of a layer whose results its backward operators need, however indirectly, in order."""
    ops = sorted(layer)
    forward = [n for n in ops if graph.ops[n].phase is Phase.FORWARD]
    made = {v for n in forward for v in graph.ops[n].results}
    wanted = {v for n in ops if graph.ops[n].phase is Phase.BACKWARD for v in graph.ops[n].inputs if v in made}
    chosen: list[int] = []
    for n in reversed(forward):
        if wanted.intersection(graph.ops[n].results):
            chosen.append(n)
            wanted.update(graph.ops[n].inputs)
    return tuple(reversed(chosen))
