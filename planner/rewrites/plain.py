"""What is computed twice, and what does nothing.

Cheap values that are made of parameters alone are left as they are: `planner/trace/local_copies.py` gave every reader
its own. Source: common subexpressions and identities, as in any compiler; XLA does the same, but after the plan.
"""

from collections.abc import Callable, Hashable, Iterator
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph, Literal, Operand
from planner.rewrites.pattern import Call, Match, Number, Var, number_of, type_of
from planner.rewrites.table import rewrite
from planner.trace.local_copies import cheap_of_parameters


def _equal_operators(graph: Graph) -> Iterator[Match]:
    """Operators of one kind that read the same."""
    cheap, groups = cheap_of_parameters(graph), dict[Hashable, list[int]]()
    for n, op in enumerate(graph.ops):
        if op.inputs and op.results and op.results[0] not in cheap:
            groups.setdefault((graph.kinds[n], tuple(map(_read, op.operands))), []).append(n)
    for ops in groups.values():
        if len(ops) > 1:
            first = graph.ops[ops[0]]
            yield Match(graph, {str(k): n for k, n in enumerate(ops)},
                        {str(k): o for k, o in enumerate(first.operands)}, {},
                        tuple(r for n in ops for r in graph.ops[n].results))


def _read(operand: Operand) -> Hashable:
    if isinstance(operand, Literal):
        return operand.shape, operand.dtype, np.asarray(operand.value).tobytes()
    return operand


def _twice(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b = rng.integers(2, 5, 2)
    return (lambda x, w: (jnp.cos(x @ w), jnp.tanh(x @ w) * 2.0)), \
        (rng.standard_normal((a, b)), rng.standard_normal((b, 3)))


@rewrite("merge_equal", "f(x), f(x) -> one f(x)", _equal_operators, samples=_twice)
def merge_equal(match: Match, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Computed once. (Its gradient is of the sum of what was two.)"""
    return tuple(match.op("0").payload.bind(list(arrays)) * len(match.ops))


NEUTRAL = MappingProxyType({"mul": (1, 1), "add": (0, 0), "max": (-np.inf, -np.inf), "min": (np.inf, np.inf),
                            "div": (None, 1), "sub": (None, 0), "pow": (None, 1)})
"""Operator -> the left and the right operand that leaves the other as it is, but for the sign of a zero."""


def _neutral(graph: Graph, *, exactly: bool) -> Iterator[Match]:
    """Operators of which one operand is neutral, whatever the other is; or for all but zeros of the other sign."""
    for n, op in enumerate(graph.ops):
        for k, neutral in enumerate(NEUTRAL.get(op.primitive, ())):
            number, kept = number_of(graph, op.operands[k]), op.operands[1 - k]
            if neutral is not None and number is not None and number == neutral and isinstance(kept, int) and \
                    type_of(graph, kept) == graph.values[op.results[0]]:
                if exactly != _loses_sign(op.primitive, number):
                    yield Match(graph, {"op": n}, {"x": kept}, {}, op.results)
                break


def _loses_sign(primitive: str, number: np.ndarray) -> bool:
    """Whether an operator makes a zero of the other sign, adding a zero: -0 + 0 is 0, but -0 - 0 and -0 + -0 are -0."""
    parts = [np.real(number), np.imag(number)] if np.iscomplexobj(number) else [number]
    inexact = jnp.issubdtype(number.dtype, jnp.inexact)
    return inexact and primitive in ("add", "sub") and any(np.signbit(p) != (primitive == "add") for p in parts)


def _idle(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b = rng.integers(2, 5, 2)
    return (lambda x: (jnp.sin(x * 1.0), jnp.cos(x - 0.0), jnp.maximum(-jnp.inf, jnp.exp(x)) / 1.0, x + -0.0)), \
        (rng.standard_normal((a, b)),)


@rewrite("drop_identity", "x*1, x/1, x-0, x**1, max(x, -inf), min(x, inf) -> x", lambda graph: _neutral(
    graph, exactly=True), samples=_idle, rounding=False)
def drop_identity(match: Match, x: jax.Array) -> jax.Array:
    """Nothing is left of it."""
    return x


def _zero_added(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b = rng.integers(2, 5, 2)
    return (lambda x: jnp.cos(0.0 + x) + jnp.sin(x - -0.0)), (rng.standard_normal((a, b)),)


rewrite("drop_zero", "x + 0 -> x (-0 stays -0)", lambda graph: _neutral(graph, exactly=False),
        samples=_zero_added)(drop_identity)


KINDS = (jnp.floating, jnp.complexfloating, jnp.signedinteger, jnp.unsignedinteger)


def _exact(match: Match) -> bool:
    """Whether the first of two casts loses nothing: it is to a wider dtype of the same kind."""
    first, second = (jnp.dtype(v.dtype) for v in (match.type("x"), match.result("inner")))
    alike = any(jnp.issubdtype(first, kind) and jnp.issubdtype(second, kind) for kind in KINDS)
    return alike and first != second and jnp.promote_types(first, second) == second


def _cast_twice(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    x = rng.standard_normal(tuple(rng.integers(2, 5, 2))).astype(np.float32)
    return (lambda x, n: (x.astype(jnp.float64).astype(jnp.float32) * 2, x.astype(jnp.float64).astype(jnp.bfloat16),
                          x.astype(jnp.bfloat16).astype(jnp.float32).astype(jnp.bfloat16),
                          n.astype(jnp.int32).astype(jnp.float32))), (x, rng.integers(-9, 9, 3).astype(np.int8))


CAST = "convert_element_type"


@rewrite("merge_casts", "a cast of a cast that loses nothing -> one cast, or none",
         Call(CAST, (Call(CAST, (Var("x"),), "inner"),), "outer"), where=_exact, samples=_cast_twice, rounding=False)
def merge_casts(match: Match, x: jax.Array) -> jax.Array:
    """One for two."""
    return x.astype(match.result("outer").dtype)


def _zero(match: Match) -> bool:
    return match.numbers["zero"] == 0 and match.type("x") == match.result("product")


def _times_zero(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    x = rng.standard_normal(tuple(rng.integers(2, 5, 2)))
    return (lambda x, y: y + jnp.tanh(x) * 0.0), (x, rng.standard_normal(x.shape))


@rewrite("drop_zero_product", "x*0 -> 0", Call("mul", (Var("x"), Number("zero")), "product", commutes=True),
         where=_zero, samples=_times_zero, assumes="x is finite")
def drop_zero_product(match: Match, x: jax.Array) -> jax.Array:
    """Nothing that x was made of is needed for it."""
    return jnp.zeros(x.shape, x.dtype)
