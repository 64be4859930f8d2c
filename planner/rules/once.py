"""The rules of a graph's operators, each asked for once: operators of repeated layers share theirs.

In: a `Graph`. Out: operator -> `OpRule`.
"""

from planner.core.graph import Graph
from planner.core.spec import OpRule
from planner.rules.lookup import rule_of


class RuleTable:
    """The rules of a graph's operators, computed once."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._by_kind: dict[int, OpRule] = {}

    def __getitem__(self, op: int) -> OpRule:
        kind = self.graph.kinds[op]
        rule = self._by_kind.get(kind)
        if rule is None:
            rule = self._by_kind[kind] = rule_of(self.graph, self.graph.ops[op])
        return rule
