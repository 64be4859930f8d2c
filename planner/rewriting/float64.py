"""A function computed in float64 throughout, whatever floating dtypes it was written in: casts between them do nothing.

What is equal but for rounding is equal to the last digits then. In: a JAX function. Out: the same, to be called with
`jax.enable_x64(True)`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from planner.trace.rebound import Binding, bound, rebound

OF_BITS = frozenset({"bitcast_convert_type", "reduce_precision"})
"""Primitives that mean the bits of what they are given."""


def in_float64(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function in float64; arguments and results are any pytrees."""
    return rebound(fn, Binding(_bound, _wide))


def _wide(dtype: Any) -> Any:
    return jnp.dtype("float64") if jnp.issubdtype(dtype, jnp.floating) else dtype


def _bound(eqn: Any, params: dict[str, Any], operands: list[Any]) -> Sequence[Any]:
    if eqn.primitive.name in OF_BITS:
        given = [jnp.asarray(x).astype(v.aval.dtype) for x, v in zip(operands, eqn.invars, strict=True)]
        return [x.astype(_wide(x.dtype)) for x in bound(eqn, params, given)]
    wide = {k: _wide(v) if isinstance(v, np.dtype) else v for k, v in params.items()}
    return bound(eqn, wide | {"precision": None} if "precision" in wide else wide, operands)  # it may ask for less
