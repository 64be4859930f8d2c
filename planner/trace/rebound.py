"""A function whose equations are bound otherwise, or on arrays of other dtypes.

It is traced to a jaxpr, which is evaluated equation by equation. Calls are opened; bodies of loops and branches are
traced once more, so that what is in them is bound otherwise too.

In: a JAX function, a `Binding`. Out: the function, traced at every call.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from planner import compat

CALLS = frozenset({"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "custom_jvp_call",
                   "custom_vjp_call"})
"""Primitives that run the one function that they hold."""


@dataclass(frozen=True)
class Binding:
    """How equations are bound.

    Attributes:
      bind: (equation, its parameters with bodies traced once more, operands) -> results; the primitive may be bound
        to something else.
      dtype: dtype of an argument, constant, literal, or argument of a body -> the one that it is computed with.
    """

    bind: Callable[[Any, dict[str, Any], list[Any]], Sequence[Any]]
    dtype: Callable[[Any], Any] = lambda given: given


def rebound(fn: Callable[..., Any], binding: Binding) -> Callable[..., Any]:
    """The function, its equations bound otherwise; arguments and results are any pytrees."""

    def other(*args: Any) -> Any:
        leaves, tree = jax.tree_util.tree_flatten(args)
        made, shape = jax.make_jaxpr(lambda *xs: fn(*tree.unflatten(xs)), return_shape=True)(*leaves)
        results = _run(binding, made.jaxpr, made.consts, leaves)
        return jax.tree_util.tree_structure(shape).unflatten(results)

    return other


def bound(eqn: Any, params: dict[str, Any], operands: Sequence[Any]) -> Sequence[Any]:
    """Results of an equation's primitive."""
    results = compat.bind(eqn.primitive, params, operands)
    return results if eqn.primitive.multiple_results else [results]


def _run(binding: Binding, jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    given = [_with_dtype(binding, x) for x in (*consts, *args)]
    env = dict(zip((*jaxpr.constvars, *jaxpr.invars), given, strict=True))

    def look(atom: Any) -> Any:
        return _with_dtype(binding, atom.val) if isinstance(atom, compat.JaxprLiteral) else env[atom]

    for eqn in jaxpr.eqns:
        results = _bound(binding, eqn, [look(v) for v in eqn.invars])
        env.update(zip(eqn.outvars, results, strict=True))
    return [look(v) for v in jaxpr.outvars]


def _bound(binding: Binding, eqn: Any, operands: list[Any]) -> Sequence[Any]:
    name, params = eqn.primitive.name, dict(eqn.params)
    bodies = {key: value for key, value in params.items() if _is_body(value)}
    if name in CALLS and len(bodies) == 1:
        (body,) = bodies.values()
        return _run(binding, *_opened(body), operands)
    params |= {key: _retraced(binding, body) for key, body in bodies.items()}
    if name == "cond":
        params["branches"] = tuple(_retraced(binding, b) for b in params["branches"])
    return binding.bind(eqn, params, operands)


def _with_dtype(binding: Binding, given: Any) -> Any:
    had = jax.dtypes.canonicalize_dtype(jnp.result_type(given), allow_extended_dtype=True)
    wanted = binding.dtype(had)
    return given if wanted == had else jnp.asarray(given).astype(wanted)


def _is_body(value: Any) -> bool:
    return isinstance(value, compat.ClosedJaxpr | compat.Jaxpr)


def _opened(body: Any) -> tuple[Any, Sequence[Any]]:
    return (body.jaxpr, body.consts) if isinstance(body, compat.ClosedJaxpr) else (body, ())


def _retraced(binding: Binding, body: Any) -> Any:
    """A body of which all is bound otherwise, of the kind that it was."""
    jaxpr, consts = _opened(body)
    given = [jax.ShapeDtypeStruct(v.aval.shape, binding.dtype(v.aval.dtype)) for v in jaxpr.invars]
    made = jax.make_jaxpr(lambda *xs: _run(binding, jaxpr, consts, xs))(*given)
    return made if isinstance(body, compat.ClosedJaxpr) or made.consts else made.jaxpr
