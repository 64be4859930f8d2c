"""Which layers are the same but for the numbers of their values, so that solving one solves all of a class.

In: a `ProgramIndex`, and where it is cut. Out: a class per layer, in numbers that appear in order; or what each layer
is, to be compared with layers of other programs.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from planner.core.fingerprint import graph_text
from planner.core.graph import Literal, Op, Phase, Role
from planner.program_index import ProgramIndex, crossing_at


def classify(index: ProgramIndex, cuts: Sequence[int]) -> tuple[int, ...]:
    """A class number per layer, equal for layers that are the same but for the numbers of their values."""
    seen: dict[Hashable, int] = {}
    layers = described(index, tuple(pairwise(cuts)), {})
    return tuple(seen.setdefault(layer.words, len(seen)) for layer in layers)


@dataclass(frozen=True)
class Described:
    """A layer: `words` that are equal for layers that are the same but for the numbers of their values; and its values,
    in the same order for all such layers."""

    words: Hashable
    values: tuple[int, ...]


def described(index: ProgramIndex, ranges: Sequence[tuple[int, int]], numbers: dict[Hashable, int]
              ) -> Iterator[Described]:
    """What each layer of forward operators [first, last) is. `numbers`: of what was said before, to which more is
    added; the same ones for all programs whose layers are to be compared."""
    words = _Words(index, crossing_at(index, sorted({end for ends in ranges for end in ends})), numbers)
    return (words.of(first, last) for first, last in ranges)


def layer_ops(index: ProgramIndex, first: int, last: int) -> tuple[int, ...]:
    """All operators of a layer, forward and backward, in the order of the graph; sums of cotangents are left out, for
    how many there are depends on the layers that read its results."""
    return tuple(sorted(n for o in range(first, last) for n in index.by_origin.get(o, ()) if n not in index.sums))


class _Words:
    """What a layer says of its operators and their types, in numbers: equal for layers of a class."""

    def __init__(self, index: ProgramIndex, crossing: Mapping[int, Sequence[int]], numbers: dict[Hashable, int]
                 ) -> None:
        self._index, self._crossing, self._numbers = index, crossing, numbers
        self._batched: dict[int, list[int]] = {}
        for v, d in sorted(index.batch_dims):
            self._batched.setdefault(v, []).append(d)
        self._of_kind: dict[int, int] = {}
        self._of_literal: dict[int, int] = {}  # by identity, as repeated operators share them
        self._of_value: dict[int, int] = {}

    def of(self, first: int, last: int) -> Described:
        """The layer of forward operators [first, last)."""
        index, micro = self._index, self._index.program.micro
        names: dict[int, int] = {}
        said: list[int] = []
        for n in layer_ops(index, first, last):
            op = micro.ops[n]
            said += (self._operator(n, op), op.origin - first)
            said += [names.setdefault(o, len(names)) if isinstance(o, int) else self._literal(o) for o in op.operands]
            said += [names.setdefault(r, len(names)) for r in op.results]
        for position in (first, last):
            said.append(-1)
            said += [names.setdefault(v, len(names)) for v in self._crossing[position]]
        ours = [v for v in names if index.role.get(v) is Role.PARAM and first <= index.first_reader[v] < last]
        return Described((tuple(said), tuple([self._value(v) for v in names]), tuple([names[v] for v in ours])),
                         tuple(names))

    def _number(self, what: Hashable) -> int:
        return self._numbers.setdefault(what, len(self._numbers))

    def _operator(self, n: int, op: Op) -> int:
        kind = self._index.program.micro.kinds[n]
        if kind not in self._of_kind:
            self._of_kind[kind] = self._number((op.primitive, _params_text(op), len(op.operands), len(op.results),
                                                *(graph_text(body, numbers=False) for body in op.bodies)))
        return 2 * self._of_kind[kind] + (op.phase is Phase.BACKWARD)

    def _literal(self, literal: Literal) -> int:
        """Below -1, to be told from values."""
        if id(literal) not in self._of_literal:
            said = self._number((literal.shape, literal.dtype, _scalar(literal.value)))
            self._of_literal[id(literal)] = -2 - said
        return self._of_literal[id(literal)]

    def _value(self, v: int) -> int:
        if v not in self._of_value:
            index = self._index
            said = (index.program.micro.values[v], index.role.get(v), v in index.differentiable,
                    index.owner.get(v, v) != v, tuple(self._batched.get(v, ())))
            self._of_value[v] = self._number(said)
        return self._of_value[v]


def _scalar(value: object) -> str:
    return repr(value) if np.ndim(value) == 0 else f"array{np.shape(value)}"  # type: ignore[arg-type]


def _params_text(op: Op) -> str:
    """Static parameters that are plain data; functions and nested programs are what bodies tell of."""
    plain = {k: v for k, v in op.params.items() if not callable(v) and "jaxpr" not in k and "sharding" not in k}
    return repr(sorted((k, repr(v)) for k, v in plain.items() if " at 0x" not in repr(v)))
