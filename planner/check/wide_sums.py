"""A function with its sums of half precision made in float32, as accelerators make them.

XLA for CPUs adds up bfloat16 in bfloat16, one term after another: over a few thousand terms half of a gradient is
rounding error, and a plan that adds up parts is nearer to the truth than the run on one device beside it. This
is the other measure: plain JAX again, only its sums are wide.

In: a JAX function. Out: the same, traced at every call.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from planner import compat
from planner.trace.rebound import Binding, bound, rebound

SUMS = frozenset({"reduce_sum", "cumsum"})
"""Primitives that add up many terms in the dtype of their operand. (Products of matrices are added up in float32.)"""


def with_wide_sums(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function with wide sums; arguments and results are any pytrees."""
    return rebound(fn, Binding(_bound))


def is_half(dtype: Any) -> bool:
    """Whether it is a float of less than 32 bits."""
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32


def _bound(eqn: Any, params: dict[str, Any], operands: list[Any]) -> Sequence[Any]:
    half = next((v.aval.dtype for v in eqn.outvars if hasattr(v.aval, "dtype")), None)
    if eqn.primitive.name in SUMS and half is not None and is_half(half):
        operands = [x.astype(jnp.float32) if is_half(x.dtype) else x for x in map(jnp.asarray, operands)]
        return [compat.bind(eqn.primitive, params, operands).astype(half)]
    return bound(eqn, params, operands)
