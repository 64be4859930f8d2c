"""The rules of a graph's operators, each asked for once: operators of repeated layers share theirs.

In: a `Graph`. Out: operator -> `OpRule`.
"""

from collections.abc import Hashable

from planner.core.graph import Graph
from planner.core.spec import OpRule
from planner.rules.alike import Alike
from planner.rules.lookup import rule_of


class RuleTable:
    """The rules of a graph's operators, computed once."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self._alike = graph, Alike(graph)
        self._rules: dict[int, OpRule] = {}
        self._by_key: dict[Hashable, OpRule] = {}

    def __getitem__(self, op: int) -> OpRule:
        rule = self._rules.get(op)
        if rule is None:
            key = self._alike.key(self.graph.ops[op])
            rule = self._by_key.get(key)
            if rule is None:
                rule = self._by_key[key] = rule_of(self.graph, self.graph.ops[op])
            self._rules[op] = rule
        return rule
