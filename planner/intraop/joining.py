"""Whether groups of operators can be sharded as one, without unifying all their dimensions again each time.

Two groups whose classes are known (`dims.py`) have, joined, the classes that their common dimensions tie together: that
is a union of classes, not of dimensions. Only what decides about joining is kept up, `dims.unify` tells the rest in the
end.

In: the `Classes` of a few operators each. Out: `Joint`s, which grow.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd
from typing import Self

from planner.intraop.dims import Classes, Key


@dataclass
class Joint:
    """The classes of a group of operators.

    Attributes:
      of: dimension -> class.
      size: per class, the number that legal shard counts divide; 1 where it must not be sharded.
      bound: the dimensions that no factor binds: they must not be sharded.
      ops: per operator, the classes of its factors.
      conflict: whether some operator has two factors in one class.
    """

    of: dict[Key, int]
    size: list[int]
    bound: set[Key]
    ops: list[tuple[int, ...]]
    conflict: bool

    @classmethod
    def from_classes(cls, classes: Classes, touched: Iterator[Key]) -> Self:
        """Of operators that touch these dimensions."""
        of = dict(classes.of)
        return cls(of, list(classes.size), {key for key in touched if key not in of},
                   [op.factors for op in classes.ops], classes.conflict)

    def take(self, other: "Joint") -> bool:
        """Take another group in, if nothing that could be sharded comes to be shardable by fewer and no operator has
        two factors in one class; whether it was."""
        if self.conflict or other.conflict:
            return False
        shift = len(self.size)
        joined = self._joined(other)
        size = [*self.size, *other.size]
        for key in (self.bound & other.of.keys()):
            size[shift + other.of[key]] = 1
        for key in (other.bound & self.of.keys()):
            size[self.of[key]] = 1
        least = [0] * len(size)
        for c, root in enumerate(joined):
            least[root] = gcd(least[root], size[c])
        if self._loses(joined, least) or other._loses(joined[shift:], least):
            return False
        if _clash(self.ops, joined) or _clash(other.ops, joined[shift:]):
            return False
        number: dict[int, int] = {}
        place = [number.setdefault(root, len(number)) for root in joined]
        self.size = [least[root] for root in number]
        if place[:shift] != list(range(shift)):
            self.of = {key: place[c] for key, c in self.of.items()}
            self.ops = [tuple([place[c] for c in op]) for op in self.ops]
        self.of.update({key: place[shift + c] for key, c in other.of.items()})
        self.ops += [tuple([place[shift + c] for c in op]) for op in other.ops]
        self.bound = (self.bound | other.bound) - self.of.keys()
        return True

    def _joined(self, other: "Joint") -> list[int]:
        """Per class of both, the one that stands for all it is tied to."""
        shift = len(self.size)
        parent = list(range(shift + len(other.size)))

        def root(c: int) -> int:
            while parent[c] != c:
                parent[c] = parent[parent[c]]
                c = parent[c]
            return c

        for key in self.of.keys() & other.of.keys():
            a, b = root(self.of[key]), root(shift + other.of[key])
            parent[max(a, b)] = min(a, b)
        return [root(c) for c in range(len(parent))]

    def _loses(self, joined: list[int], least: list[int]) -> bool:
        named = set(self.of.values())
        return any(least[joined[c]] < self.size[c] for c in named)


def _clash(ops: list[tuple[int, ...]], joined: list[int]) -> bool:
    """Whether some operator has two factors in one joined class."""
    if len(set(joined)) == len(joined):
        return False
    return any(len({joined[c] for c in op}) < len(op) for op in ops)
