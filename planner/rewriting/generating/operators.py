"""The operators that terms are made of: what they take, what they say and do in JAX, what they cost.

In: names of operators. Out: whether operands fit, text, arrays, costs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from planner.rewriting.generating.exact import SIDE
from planner.rewriting.generating.terms import Term

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Operator:
    """An operator.

    Attributes:
      name: what terms call it.
      arity: number of operands.
      result: shapes of operands -> the result's; None where they do not fit. Vectors are repeated to `SIDE`.
      text: as it is written in JAX, with `{0}` and `{1}` for its operands.
      array: the same as a function of (`numpy` or `jax.numpy`, shape of the result, operands).
      tight: whether the text needs no parentheses where it is an operand.
    """

    name: str
    arity: int
    result: Callable[..., Shape | None]
    text: str
    array: Callable[..., Any]
    tight: bool = False


def _alike(a: Shape, b: Shape) -> Shape | None:
    return a if a == b else None


def _alike_arrays(a: Shape, b: Shape) -> Shape | None:
    return a if a == b != () else None


def _product(a: Shape, b: Shape) -> Shape | None:
    fits = len(a) + len(b) > 2 and a and b and a[-1] == b[0]
    return a[:-1] + b[1:] if fits else None


def _without(axis: int) -> Callable[[Shape], Shape | None]:
    return lambda a: a[:axis] + a[axis + 1:] if axis < len(a) else None


def _joined(axis: int) -> Callable[[Shape, Shape], Shape | None]:
    def result(a: Shape, b: Shape) -> Shape | None:
        fits = axis < len(a) == len(b) and a[:axis] + a[axis + 1:] == b[:axis] + b[axis + 1:]
        return (*a[:axis], a[axis] + b[axis], *a[axis + 1:]) if fits else None

    return result


def _halved(axis: int) -> Callable[[Shape], Shape | None]:
    def result(a: Shape) -> Shape | None:
        return (*a[:axis], a[axis] // 2, *a[axis + 1:]) if axis < len(a) and a[axis] % 2 == 0 else None

    return result


def _half(which: int, axis: int) -> Callable[..., Any]:
    return lambda xp, shape, a: xp.split(a, 2, axis)[which]


_ALL = (
    Operator("add", 2, _alike, "{0} + {1}", lambda xp, shape, a, b: a + b),
    Operator("sub", 2, _alike_arrays, "{0} - {1}", lambda xp, shape, a, b: a - b),
    Operator("mul", 2, _alike, "{0} * {1}", lambda xp, shape, a, b: a * b),
    Operator("div", 2, _alike_arrays, "{0} / {1}", lambda xp, shape, a, b: a / b),
    Operator("neg", 1, lambda a: a or None, "-{0}", lambda xp, shape, a: -a),
    Operator("inverse", 1, lambda a: a or None, "1 / {0}", lambda xp, shape, a: 1 / a),
    Operator("scale", 2, lambda s, a: a if s == () and a else None, "{0} * {1}", lambda xp, shape, s, a: s * a),
    Operator("matmul", 2, _product, "{0} @ {1}", lambda xp, shape, a, b: xp.matmul(a, b)),
    Operator("transpose", 1, lambda a: a[::-1] if len(a) == 2 else None, "{0}.T", lambda xp, shape, a: a.T, tight=True),
    Operator("sum0", 1, _without(0), "{0}.sum(0)", lambda xp, shape, a: a.sum(0), tight=True),
    Operator("sum1", 1, _without(1), "{0}.sum(1)", lambda xp, shape, a: a.sum(1), tight=True),
    Operator("rows", 1, lambda a: (SIDE, *a) if len(a) == 1 else None, "{0}[None, :]",
             lambda xp, shape, a: xp.broadcast_to(a[None, :], shape), tight=True),
    Operator("columns", 1, lambda a: (*a, SIDE) if len(a) == 1 else None, "{0}[:, None]",
             lambda xp, shape, a: xp.broadcast_to(a[:, None], shape), tight=True),
    *(Operator(f"join{k}", 2, _joined(k), f"concatenate([{{0}}, {{1}}], {k})",
               lambda xp, shape, a, b, k=k: xp.concatenate([a, b], k), tight=True) for k in (0, 1)),
    *(Operator(f"{name}{k}", 1, _halved(k), f"split({{0}}, 2, {k})[{which}]", _half(which, k), tight=True)
      for k in (0, 1) for which, name in enumerate(("first", "second"))),
    Operator("relu", 1, lambda a: a or None, "relu({0})", lambda xp, shape, a: xp.maximum(a, 0), tight=True),
    Operator("exp", 1, lambda a: a or None, "exp({0})", lambda xp, shape, a: xp.exp(a), tight=True),
)

OPERATORS: Mapping[str, Operator] = MappingProxyType({op.name: op for op in _ALL})
"""Name -> operator."""


def text(term: Term) -> str:
    """A term as it is written in JAX."""
    if not term.args:
        return term.head
    op = OPERATORS[term.head]
    bare = (op.tight and "[{0}" in op.text) or "({0}" in op.text
    parts = [text(a) if bare or not a.args or OPERATORS[a.head].tight else f"({text(a)})" for a in term.args]
    return op.text.format(*parts)


def computed(term: Term, env: dict[Term, Any], shapes: Mapping[Term, Shape], xp: Any) -> Any:
    """The array of a term.

    Args:
      term: it.
      env: arrays of its inputs; what is computed on the way is added.
      shapes: shape of every subterm.
      xp: `numpy`, or `jax.numpy`.
    """
    if term not in env:
        args = [computed(arg, env, shapes, xp) for arg in term.args]
        if term.head in ("add", "sub", "mul", "div"):
            args = [_short(arg, env, args[k]) if term.args[1 - k].head not in ("rows", "columns") else args[k]
                    for k, arg in enumerate(term.args)]
        env[term] = OPERATORS[term.head].array(xp, shapes[term], *args)
    return env[term]


def _short(term: Term, env: Mapping[Term, Any], array: Any) -> Any:
    """A repeated vector as it is written beside a matrix: `v[None, :]`."""
    if term.head == "rows":
        return env[term.args[0]][None, :]
    return env[term.args[0]][:, None] if term.head == "columns" else array
