"""Where a rewrite applies: terms over a graph's operators, and what is found.

A pattern is data: a term of calls, variables and numbers, several terms that share variables, or siblings, operators of
one primitive that read the same value. `planner/rewriting/matching.py` finds the places. Shapes, dtypes and parameters
are side conditions, which read a `Match`.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph, Literal, Op, Operand, Value


@dataclass(frozen=True, slots=True)
class Var:
    """Any value or literal; the same one wherever the name appears."""

    name: str


@dataclass(frozen=True, slots=True)
class Number:
    """A literal, or one that was broadcast: the same number in every element."""

    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """An operator of one of some primitives (names parted by `|`) applied to terms.

    Attributes:
      primitive: JAX's names: `"dot_general"`, `"add|sub"`.
      operands: a term each, in order.
      name: what side conditions and replacements call the operator; one for each call of a pattern.
      commutes: whether the first two operands may stand the other way round.
    """

    primitive: str
    operands: tuple["Term", ...]
    name: str
    commutes: bool = False

    @property
    def primitives(self) -> tuple[str, ...]:
        """The names, apart."""
        return tuple(self.primitive.split("|"))


Term = Var | Number | Call


@dataclass(frozen=True)
class Siblings:
    """At least two operators of one primitive that read the same value at one place, none of which feeds another.

    In a match they are called `"0"`, `"1"`, ... in order; the replacement is given the shared value, then the other
    operands of each in turn, and returns one result for each.

    Attributes:
      primitive: JAX's name.
      shared: the operand that all read.
      alike: `(op, operand types) -> key`: those of one key belong together; None: not at all.
    """

    primitive: str
    shared: int
    alike: Callable[[Op, tuple[Value, ...]], Hashable | None]


@dataclass(frozen=True)
class Match:
    """A place in a graph where a pattern is.

    Attributes:
      graph: the graph.
      ops: name of a call -> index of the operator.
      operands: name of a variable -> what it is there; of siblings, `"shared"` and `"0.1"` (sibling 0, operand 1).
      numbers: name of a number -> it.
      roots: the values that the replacement has to make, one per term of the pattern.
    """

    graph: Graph
    ops: Mapping[str, int]
    operands: Mapping[str, Operand]
    numbers: Mapping[str, Any]
    roots: tuple[int, ...]

    def op(self, name: str) -> Op:
        """A matched operator."""
        return self.graph.ops[self.ops[name]]

    def params(self, name: str) -> Mapping[str, Any]:
        """Its static parameters."""
        return self.op(name).params

    def type(self, name: str) -> Value:
        """Shape and dtype of a variable."""
        return type_of(self.graph, self.operands[name])

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a variable."""
        return self.type(name).shape

    def result(self, name: str) -> Value:
        """Shape and dtype of the first result of a matched operator."""
        return self.graph.values[self.op(name).results[0]]

    def is_private(self, name: str) -> bool:
        """Whether nothing but matched operators reads a matched operator's results: it is gone once it is replaced."""
        results, matched = self.op(name).results, set(self.ops.values())
        outputs = {o.operand for o in self.graph.outputs}
        return all(v not in outputs and matched.issuperset(self.graph.consumers.get(v, ())) for v in results)


def type_of(graph: Graph, operand: Operand) -> Value:
    """Shape and dtype of an operand."""
    return Value(operand.shape, operand.dtype) if isinstance(operand, Literal) else graph.values[operand]


def number_of(graph: Graph, operand: Operand) -> np.ndarray | None:
    """The scalar that an operand holds in every element, in its dtype; None if it may be anything."""
    if isinstance(operand, Literal):
        array = np.asarray(operand.value)
        return array.reshape(-1)[0] if array.size and np.all(array == array.reshape(-1)[0]) else None
    n = graph.producers.get(operand)
    op = None if n is None else graph.ops[n]
    if op is None or op.primitive not in ("broadcast_in_dim", "convert_element_type", "copy"):
        return None
    number = number_of(graph, op.operands[0])
    return None if number is None else _cast(number, graph.values[operand].dtype)


def _cast(number: np.ndarray, dtype: str) -> np.ndarray | None:
    """A number in another dtype, as JAX rounds it; None where an integer or a truth value would not be it."""
    to = jnp.dtype(dtype)
    if np.iscomplexobj(number) and not jnp.issubdtype(to, jnp.complexfloating):
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        cast = number.astype(to)
    return cast if jnp.issubdtype(to, jnp.inexact) or cast == number else None


def maker(graph: Graph, operand: Operand, primitive: str) -> int | None:
    """The operator of a primitive that made an operand."""
    n = graph.producers.get(operand) if isinstance(operand, int) else None
    return n if n is not None and graph.ops[n].primitive == primitive else None


def is_alone(graph: Graph, n: int) -> bool:
    """Whether one operator reads what an operator makes, and nothing else does."""
    (result, *rest) = graph.ops[n].results
    return not rest and len(graph.consumers.get(result, ())) == 1 and result not in {o.operand for o in graph.outputs}


def of_one_dtype(graph: Graph, op: Op) -> bool:
    """Whether an operator makes its result in the dtype of all its operands: what is added or scaled before it is
    rounded as it would be after it."""
    return len({type_of(graph, o).dtype for o in (*op.operands, *op.results)}) == 1
