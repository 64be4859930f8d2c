"""The factors of nested graphs, from the factors of what is inside.

Dimensions that some operator inside binds to one factor must be sharded alike: they are one class (union-find). A class
is usable from outside only if every operator inside passes it through: nothing reduces over it, leaves it whole, or
carries it twice in one tensor. In: nested graphs, and which of their inputs and outputs are the same tensor. Out:
labels for `from_labels`.
"""

from math import gcd

from planner.core.graph import Graph, Literal, Op, Operand
from planner.core.spec import FactorKind
from planner.rules.labels import Label
from planner.rules.lookup import rule_of

Node = tuple[int, int, int]
"""(index of the graph, value, dimension)."""


class Classes:
    """Classes of dimensions that must be sharded alike, over several nested graphs.

    Args:
      bodies: the nested graphs.
    """

    def __init__(self, bodies: tuple[Graph, ...]) -> None:
        self._bodies = bodies
        self._parent: dict[Node, Node] = {}
        self._blocked: set[Node] = set()
        for g, body in enumerate(bodies):
            for op in body.ops:
                self._absorb(g, body, op)

    def _find(self, node: Node) -> Node:
        while (parent := self._parent.get(node, node)) != node:
            self._parent[node] = self._parent.get(parent, parent)
            node = parent
        return node

    def _absorb(self, g: int, body: Graph, op: Op) -> None:
        rule = rule_of(body, op)
        first: dict[int, Node] = {}
        for place, factors in zip((*op.operands, *op.results), (*rule.operands, *rule.results), strict=True):
            for d, factor in enumerate(factors):
                if not isinstance(place, int) or body.values[place].shape[d] == 1:
                    continue
                node = (g, place, d)
                if factor is None or rule.factors[factor].kind is FactorKind.REDUCE:
                    self._blocked.add(node)
                else:
                    self._parent[self._find(node)] = self._find(first.setdefault(factor, node))

    def tie(self, one: tuple[int, Operand], other: tuple[int, Operand]) -> None:
        """Say that two `(graph index, operand)` are one tensor. Literals can lie anywhere."""
        (g, a), (h, b) = one, other
        if isinstance(a, Literal) or isinstance(b, Literal):
            return
        for d in range(len(self._bodies[g].values[a].shape)):
            self._parent[self._find((g, a, d))] = self._find((h, b, d))

    def usable(self) -> "UsableClasses":
        """The classes that can be sharded from outside, once everything is tied."""
        blocked = {self._find(node) for node in self._blocked}
        sizes: dict[Node, int] = {}
        for g, body in enumerate(self._bodies):
            for v, value in enumerate(body.values):
                roots = [self._find((g, v, d)) for d in range(len(value.shape))]
                blocked |= {root for root in roots if roots.count(root) > 1}
                for root, size in zip(roots, value.shape, strict=True):
                    sizes[root] = gcd(sizes.get(root, 0), size)
        return UsableClasses(self._bodies, {n: self._find(n) for n in self._parent}, frozenset(blocked), sizes)


class UsableClasses:
    """Labels of what enters and leaves the nested graphs (made by `Classes.usable`)."""

    def __init__(
        self, bodies: tuple[Graph, ...], roots: dict[Node, Node], blocked: frozenset[Node], sizes: dict[Node, int]
    ) -> None:
        self._bodies, self._roots, self._blocked, self._sizes = bodies, roots, blocked, sizes

    def labels(self, g: int, operand: Operand) -> list[Label]:
        """A label per dimension of a value of graph `g`: its class, or None where it must stay whole.

        A class whose dimensions differ in size (split or merged inside) is left whole too: from outside, only the sizes
        of the outer dimensions bound the shard count.
        """
        if isinstance(operand, Literal):
            return [None] * len(operand.shape)
        return [self._label((g, operand, d), size) for d, size in enumerate(self._bodies[g].values[operand].shape)]

    def _label(self, node: Node, size: int) -> Label:
        root = self._roots.get(node, node)
        return None if root in self._blocked or self._sizes[root] != size else root
