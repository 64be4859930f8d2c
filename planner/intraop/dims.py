"""Which dimensions of which tensors must be sharded alike inside one group of operators: union-find over operator
factors.

Each operator's rule binds tensor dimensions to factors. Dimensions bound to one factor are one *class*; a sharding of
the group assigns mesh axes to classes. Cotangents count as the forward value they belong to (`owner`), so that a
backward operator is sharded as its forward operator is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd

from planner.core.graph import Graph, Operand
from planner.core.spec import FactorKind, OpRule
from planner.rules import RuleTable

Key = tuple[int, int]
"""(owner value, dimension)."""

Node = Key | tuple[str, int, int]
"""What union-find joins: a dimension, or ("factor", operator, factor)."""


@dataclass(frozen=True, slots=True)
class OpClasses:
    """One operator seen through the classes of its group.

    Attributes:
      op: index in the graph.
      factors: classes of all its factors (work is divided by the shards on them).
      reduced: classes of its REDUCE factors (results are partial sums over the axes on them).
    """

    op: int
    factors: tuple[int, ...]
    reduced: tuple[int, ...]


@dataclass(frozen=True)
class Classes:
    """Result of unification over a group of operators.

    Attributes:
      of: (owner, dimension) -> class; dimensions of no factor are absent.
      size: per class, the number that legal shard counts divide (gcd of all bound dimensions); 1 for frozen classes.
      frozen: per class, whether some operator forbids sharding it.
      ops: per operator, its classes.
      conflict: whether some operator has two factors in one class (that class is frozen).
    """

    of: Mapping[Key, int]
    size: tuple[int, ...]
    frozen: tuple[bool, ...]
    ops: tuple[OpClasses, ...]
    conflict: bool

    def dims(self, owner: int, rank: int) -> tuple[int | None, ...]:
        """The class of each dimension of an owner, None where it has none."""
        if (owner, rank) not in self._dims:
            self._dims[owner, rank] = tuple(self.of.get((owner, d)) for d in range(rank))
        return self._dims[owner, rank]

    @cached_property
    def _dims(self) -> dict[tuple[int, int], tuple[int | None, ...]]:
        """What `dims` was asked: every mesh asks the same."""
        return {}


class _UnionFind:
    def __init__(self) -> None:
        self.parent: dict[Node, Node] = {}

    def find(self, key: Node) -> Node:
        parent = self.parent.setdefault(key, key)
        while parent != key:
            grand = self.parent[parent]
            self.parent[key] = grand
            key, parent = parent, grand
        return key

    def union(self, a: Node, b: Node) -> None:
        self.parent[self.find(a)] = self.find(b)


def unify(graph: Graph, ops: Sequence[int], rules: RuleTable, owner: Mapping[int, int]) -> Classes:
    """Classes of the dimensions touched by `ops` (indices into `graph.ops`)."""
    uf = _UnionFind()
    frozen_keys: list[Key] = []
    sizes: list[tuple[Node, int]] = []
    for n in ops:
        op, rule = graph.ops[n], rules[n]
        for operand, binding in _bindings(op.operands, op.results, rule):
            if not isinstance(operand, int):
                continue
            value = owner.get(operand, operand)
            for d, factor in enumerate(binding):
                key = (value, d)
                sizes.append((key, graph.values[operand].shape[d]))
                if factor is None:
                    frozen_keys.append(key)
                    uf.find(key)
                else:
                    uf.union(key, ("factor", n, factor))
        for f, factor in enumerate(rule.factors):
            sizes.append((("factor", n, f), factor.size))
    return _number(ops, rules, uf, frozen_keys, sizes)


def _bindings(operands: Sequence[Operand], results: Sequence[int], rule: OpRule
              ) -> Iterable[tuple[Operand, tuple[int | None, ...]]]:
    yield from zip(operands, rule.operands, strict=True)
    yield from zip(results, rule.results, strict=True)


def _number(ops: Sequence[int], rules: RuleTable, uf: _UnionFind, frozen_keys: Sequence[Key],
            sizes: Sequence[tuple[Node, int]]) -> Classes:
    number: dict[Node, int] = {}
    for n in ops:
        for f in range(len(rules[n].factors)):
            number.setdefault(uf.find(("factor", n, f)), len(number))
    size = [0] * len(number)
    frozen = [False] * len(number)
    for key, s in sizes:
        c = number.get(uf.find(key))
        if c is not None:
            size[c] = gcd(size[c], s)
    for key in frozen_keys:
        c = number.get(uf.find(key))
        if c is not None:
            frozen[c] = True
    conflict = False
    described: list[OpClasses] = []
    for n in ops:
        rule = rules[n]
        classes = [number[uf.find(("factor", n, f))] for f in range(len(rule.factors))]
        if len(set(classes)) != len(classes):
            conflict = True
            for c in classes:
                if classes.count(c) > 1:
                    frozen[c] = True
        reduced = tuple(c for c, f in zip(classes, rule.factors, strict=True) if f.kind is FactorKind.REDUCE)
        described.append(OpClasses(n, tuple(classes), reduced))
    of = {key: number[root] for key in uf.parent if len(key) == 2 and (root := uf.find(key)) in number}
    return Classes(of, tuple(1 if fz else max(s, 1) for s, fz in zip(size, frozen, strict=True)), tuple(frozen),
                   tuple(described), conflict)
