"""A function with its sums of half precision made in float32, as accelerators make them.

XLA for CPUs adds up bfloat16 in bfloat16, one term after another: over a few thousand terms half of a gradient is
rounding error, and a plan that adds up parts is nearer to the truth than the run on one device beside it. This
is the other measure: plain JAX again, only its sums are wide.

In: a JAX function. Out: the same, traced at every call.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from planner import compat

SUMS = frozenset({"reduce_sum", "cumsum"})
"""Primitives that add up many terms in the dtype of their operand. (Products of matrices are added up in float32.)"""

CALLS = frozenset({"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "custom_jvp_call",
                   "custom_vjp_call"})
"""Primitives that run the one function that they hold."""


def with_wide_sums(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function with wide sums; arguments and results are any pytrees."""

    def wide(*args: Any) -> Any:
        leaves, tree = jax.tree_util.tree_flatten(args)
        made, shape = jax.make_jaxpr(lambda *xs: fn(*tree.unflatten(xs)), return_shape=True)(*leaves)
        results = _run(made.jaxpr, made.consts, leaves)
        return jax.tree_util.tree_structure(shape).unflatten(results)

    return wide


def is_half(dtype: Any) -> bool:
    """Whether it is a float of less than 32 bits."""
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32


def _run(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def look(atom: Any) -> Any:
        return atom.val if isinstance(atom, compat.JaxprLiteral) else env[atom]

    for eqn in jaxpr.eqns:
        results = _bound(eqn, [look(v) for v in eqn.invars])
        env.update(zip(eqn.outvars, results, strict=True))
    return [look(v) for v in jaxpr.outvars]


def _bound(eqn: Any, operands: list[Any]) -> Sequence[Any]:
    name, params = eqn.primitive.name, dict(eqn.params)
    bodies = {key: value for key, value in params.items() if _is_body(value)}
    if name in CALLS and len(bodies) == 1:
        (body,) = bodies.values()
        return _run(*_opened(body), operands)
    params |= {key: _widened(body) for key, body in bodies.items()}
    if name == "cond":
        params["branches"] = tuple(_widened(b) for b in params["branches"])
    half = next((v.aval.dtype for v in eqn.outvars if hasattr(v.aval, "dtype")), None)
    if name in SUMS and half is not None and is_half(half):
        operands = [x.astype(jnp.float32) if is_half(x.dtype) else x for x in map(jnp.asarray, operands)]
        return [compat.bind(eqn.primitive, params, operands).astype(half)]
    results = compat.bind(eqn.primitive, params, operands)
    return results if eqn.primitive.multiple_results else [results]


def _is_body(value: Any) -> bool:
    return isinstance(value, compat.ClosedJaxpr | compat.Jaxpr)


def _opened(body: Any) -> tuple[Any, Sequence[Any]]:
    return (body.jaxpr, body.consts) if isinstance(body, compat.ClosedJaxpr) else (body, ())


def _widened(body: Any) -> Any:
    """A body with wide sums, of the kind that it was."""
    jaxpr, consts = _opened(body)
    given = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in jaxpr.invars]
    made = jax.make_jaxpr(lambda *xs: _run(jaxpr, consts, xs))(*given)
    return made if isinstance(body, compat.ClosedJaxpr) or made.consts else made.jaxpr
