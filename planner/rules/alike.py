"""What makes two operators of a graph alike to rules, which see primitive, parameters, bodies and types.

In: a `Graph` and its operators. Out: a key each, equal for those of repeated layers.
"""

from collections.abc import Hashable

from planner.core.graph import Graph, Op, Value


class Alike:
    """Keys of the operators of a graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._params: dict[int, Hashable] = {}

    def key(self, op: Op) -> Hashable:
        """Equal for operators that have the same rule, and the same FLOPs."""
        ends = (*op.operands, *op.results)
        types = tuple(self._graph.values[o] if isinstance(o, int) else Value(o.shape, o.dtype) for o in ends)
        params = self._params.get(id(op.params))
        if params is None:
            params = self._params[id(op.params)] = _hashable(op)
        return op.primitive, params, id(op.bodies), types  # the graph holds on to what these ids are of


def _hashable(op: Op) -> Hashable:
    """An operator's parameters by their contents, or by themselves where something in them has no hash."""
    params = tuple(op.params.items())
    try:
        hash(params)
    except TypeError:
        return id(op.params)
    return params
