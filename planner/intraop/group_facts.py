"""What the prices of a group ask on every mesh, found out once.

In: a graph, a group of its operators. Out: `GroupFacts`, which fill up as they are asked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from planner.core.graph import Graph, Role
from planner.costs.memory import value_bytes
from planner.intraop.choices import Group
from planner.intraop.group_costs import Work, op_work

Dims = tuple[int | None, ...]
"""The class of each dimension of a value."""


@dataclass
class GroupFacts:
    """Answers by what was asked. It holds nothing of the graph, so that it may go to another process with its group."""

    _dims: dict[int, Dims] = field(default_factory=dict[int, Dims])
    _bytes: dict[tuple[int, ...], tuple[tuple[frozenset[int], int], ...]] = field(
        default_factory=dict[tuple[int, ...], tuple[tuple[frozenset[int], int], ...]])
    _work: dict[int, Work] = field(default_factory=dict[int, Work])
    _handed_back: tuple[int, ...] | None = None

    def dims(self, graph: Graph, owner: Mapping[int, int], group: Group, value: int) -> Dims:
        """The class of each dimension of a value."""
        found = self._dims.get(value)
        if found is None:
            own = owner.get(value, value)
            self._dims[value] = found = group.classes.dims(own, len(graph.values[value].shape))
        return found

    def bytes(self, graph: Graph, owner: Mapping[int, int], group: Group, values: Sequence[int]
              ) -> tuple[tuple[frozenset[int], int], ...]:
        """Bytes of values together, whole, by the classes of their dimensions."""
        key = tuple(values)
        found = self._bytes.get(key)
        if found is None:
            by_classes: dict[frozenset[int], int] = {}
            for v in key:
                classes = frozenset(c for c in self.dims(graph, owner, group, v) if c is not None)
                by_classes[classes] = by_classes.get(classes, 0) + value_bytes(graph.values[v])
            self._bytes[key] = found = tuple(by_classes.items())
        return found

    def work(self, graph: Graph, n: int) -> Work:
        """Of operator `n`."""
        found = self._work.get(n)
        if found is None:
            self._work[n] = found = op_work(graph, n)
        return found

    def handed_back(self, graph: Graph, group: Group) -> tuple[int, ...]:
        """New values of carried state that the group makes."""
        if self._handed_back is None:
            made = {r for n in group.ops for r in graph.ops[n].results}
            self._handed_back = tuple(sorted({o.operand for o in graph.outputs_of(Role.STATE)
                                              if isinstance(o.operand, int) and o.operand in made}))
        return self._handed_back


def facts_of(group: Group) -> GroupFacts:
    """Those of a group."""
    found = group.asked.get("facts")
    if not isinstance(found, GroupFacts):
        group.asked["facts"] = found = GroupFacts()
    return found
