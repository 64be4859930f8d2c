"""Operators that work element by element: which they are, and how one is applied to arrays of another shape.

Operands have the result's rank or are scalars, and a dimension of size 1 beside a larger one is broadcast, as JAX's
primitives have it. What `jax.nn.relu` traces to, a call with a derivative of its own, is one of them.

In: operators, arrays. Out: arrays.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner import compat
from planner.core.graph import Graph, Literal, Op, Operand
from planner.rewrites.pattern import number_of, type_of
from planner.trace.sources import is_machinery

ELEMENTWISE = frozenset({
    "abs", "acos", "acosh", "add", "and", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "ceil",
    "convert_element_type", "cos", "cosh", "div", "eq", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor",
    "ge", "gt", "integer_pow", "is_finite", "le", "lgamma", "log", "log1p", "logistic", "lt", "max", "min", "mul",
    "ne", "neg", "not", "or", "pow", "rem", "round", "rsqrt", "select_n", "sign", "sin", "sinh", "sqrt", "square",
    "sub", "tan", "tanh", "xor"})
"""JAX's names."""


def is_elementwise(op: Op) -> bool:
    """Whether an operator works element by element."""
    return op.primitive in ELEMENTWISE or is_relu(op)


def is_relu(op: Op) -> bool:
    """Whether an operator is `jax.nn.relu`: a call from JAX's own files, with a derivative of its own, that takes the
    larger of an array and 0."""
    if op.primitive != "custom_jvp_call" or len(op.bodies) != 1 or len(op.bodies[0].ops) != 1:
        return False
    inner = op.bodies[0].ops[0]
    of = [o for o in inner.operands if isinstance(o, Literal)]
    plain = inner.primitive == "max" and len(of) == 1 and not np.any(of[0].value)
    return plain and is_machinery(compat.file_of(op.params["call_jaxpr"].jaxpr))


def applied(op: Op, operands: Sequence[Any]) -> jax.Array:
    """An elementwise operator applied to operands of one shape, scalars and what is broadcast to it."""
    return jax.nn.relu(operands[0]) if is_relu(op) else op.payload.bind(list(operands))[0]


def numbers_of(graph: Graph, op: Op) -> dict[str, Any]:
    """Place among the operands -> the number that is there in every element."""
    found = {str(k): number_of(graph, o) for k, o in enumerate(op.operands)}
    return {k: n for k, n in found.items() if n is not None}


def others(op: Op, numbers: Mapping[str, Any]) -> dict[str, Operand]:
    """Place -> what is no number there."""
    return {str(k): o for k, o in enumerate(op.operands) if str(k) not in numbers}


def with_numbers(graph: Graph, op: Op, numbers: Mapping[str, Any], arrays: Mapping[str, jax.Array],
                 shape: tuple[int, ...]) -> list[Any]:
    """All operands in order: arrays, and numbers as scalars, or filling a shape where the operator wants one."""
    whole: list[Any] = []
    for k, operand in enumerate(op.operands):
        if str(k) in arrays:
            whole.append(arrays[str(k)])
            continue
        typed = type_of(graph, operand)
        number = np.asarray(numbers[str(k)], jnp.dtype(typed.dtype))
        whole.append(jnp.full(shape, number, number.dtype) if typed.shape else number)
    return whole


def is_small(graph: Graph, operand: Operand, shape: tuple[int, ...]) -> bool:
    """Whether an operand is broadcast to a shape by dimensions of size 1."""
    of = type_of(graph, operand).shape
    return len(of) == len(shape) and math.prod(of) < math.prod(shape)
