"""The rules of a graph's operators, each asked for once: operators of repeated layers share theirs.

In: a `Graph`. Out: operator -> `OpRule`.
"""

from collections.abc import Hashable

from planner.core.graph import Graph, Op, Value
from planner.core.spec import OpRule
from planner.rules.lookup import rule_of


class RuleTable:
    """The rules of a graph's operators, computed once."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._rules: dict[int, OpRule] = {}
        self._alike: dict[Hashable, OpRule] = {}
        self._params: dict[int, Hashable] = {}

    def __getitem__(self, op: int) -> OpRule:
        rule = self._rules.get(op)
        if rule is None:
            rule = self._rules[op] = self._rule(self._graph.ops[op])
        return rule

    def _rule(self, op: Op) -> OpRule:
        """Operators with the same parameters (those of repeated layers) have one rule if their types agree."""
        ends = (*op.operands, *op.results)
        types = tuple(self._graph.values[o] if isinstance(o, int) else Value(o.shape, o.dtype) for o in ends)
        params = self._params.get(id(op.params))
        if params is None:
            params = self._params[id(op.params)] = _hashable(op)
        key = (op.primitive, params, id(op.bodies), types)  # the graph holds on to what these ids are of
        rule = self._alike.get(key)
        if rule is None:
            rule = self._alike[key] = rule_of(self._graph, op)
        return rule


def _hashable(op: Op) -> Hashable:
    """An operator's parameters by their contents, or by themselves where something in them has no hash."""
    params = tuple(op.params.items())
    try:
        hash(params)
    except TypeError:
        return id(op.params)
    return params
