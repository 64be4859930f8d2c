"""Sums merged, split, and moved past sums, scales and broadcasts.

A sum over several dimensions is a sum of sums; in which order, and before or after what is linear, decides how large
what is between is, and what has to be reduced over devices. Source: TASO (SOSP 2019, table 2), Unity (OSDI 2022,
section 3) for reductions that are parallelised.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph
from planner.rewrites.elementwise import applied
from planner.rewrites.pattern import Call, Match, Var
from planner.rewrites.scales import scaled, scaled_operand, scaling, spread, varies
from planner.rewrites.table import rewrite
from planner.rewrites.transposes import SUMS, is_alone, maker, reduced


def axes_of(match: Match, name: str) -> tuple[int, ...]:
    """The dimensions that a matched reduction is over."""
    return tuple(sorted(int(a) for a in match.params(name)["axes"]))


def kept(rank: int, axes: tuple[int, ...]) -> tuple[int, ...]:
    """The dimensions that a reduction leaves, in order."""
    return tuple(d for d in range(rank) if d not in axes)


def _cube(rng: np.random.Generator) -> Any:
    return rng.standard_normal(tuple(rng.integers(2, 5, 3)))


def _same_reduction(match: Match) -> bool:
    return match.is_private("inner") and match.op("inner").primitive == match.op("outer").primitive


def _reduced_twice(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return (lambda x: (jnp.sum(jnp.sum(x, 1), 1), jnp.max(jnp.max(x, 0), 0))), (_cube(rng),)


@rewrite("merge_reductions", "a reduction of a reduction -> one over all their dimensions",
         Call(SUMS, (Call(SUMS, (Var("x"),), "inner"),), "outer"), where=_same_reduction, samples=_reduced_twice)
def merge_reductions(match: Match, x: jax.Array) -> jax.Array:
    """One for two."""
    inner = axes_of(match, "inner")
    left = kept(x.ndim, inner)
    return reduced(match.op("outer").primitive, x, sorted((*inner, *(left[a] for a in axes_of(match, "outer")))))


def _over_several(match: Match) -> bool:
    return sum(match.shape("x")[a] > 1 for a in axes_of(match, "sum")) > 1


def _reduced_at_once(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return (lambda x: (jnp.sum(x, (0, 2)), jnp.max(x))), (_cube(rng),)


@rewrite("split_reduction", "a reduction over several dimensions -> over the last, then over the others",
         Call(SUMS, (Var("x"),), "sum"), where=_over_several, samples=_reduced_at_once)
def split_reduction(match: Match, x: jax.Array) -> jax.Array:
    """What is next to each other in memory first."""
    (*rest, last), primitive = axes_of(match, "sum"), match.op("sum").primitive
    return reduced(primitive, reduced(primitive, x, (last,)), rest)


def _scaled_sums(graph: Graph) -> Iterator[Match]:
    """Sums of what is scaled by something that is the same along all that is summed."""
    for n, op in enumerate(graph.ops):
        found = scaled_operand(graph, op.operands[0]) if op.primitive == "reduce_sum" else None
        if found is not None and varies(graph, found[2]).isdisjoint(op.params["axes"]):
            yield Match(graph, {"sum": n, "scale": found[0]}, {"x": found[1], "s": found[2]}, {}, op.results)


def _sum_of_scaled(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    x = _cube(rng)
    return (lambda x, s: (jnp.sum(x / 3.0, (0, 2)), jnp.sum(jnp.sin(x) * s, (0, 1)))), \
        (x, rng.standard_normal((1, 1, x.shape[2])))


@rewrite("scale_after_reduction", "sum(s*x) -> s*sum(x)", _scaled_sums, samples=_sum_of_scaled)
def scale_after_reduction(match: Match, x: jax.Array, s: jax.Array) -> jax.Array:
    """What is scaled is smaller."""
    axes = axes_of(match, "sum")
    return scaled(match.op("scale"), jax.lax.reduce_sum(x, axes), spread(s, kept(x.ndim, axes)))


def _scales_of_sums(graph: Graph) -> Iterator[Match]:
    """Scales, by something small, of sums that nothing else reads."""
    for n in range(len(graph.ops)):
        found = scaling(graph, n)
        m = None if found is None else maker(graph, found[1], "reduce_sum")
        if found is not None and m is not None and is_alone(graph, m):
            yield Match(graph, {"scale": n, "sum": m}, {"x": graph.ops[m].operands[0], "s": found[2]}, {},
                        graph.ops[n].results)


def _scaled_sum(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return (lambda x: (jnp.sum(x, (0, 2)) / 3.0, jnp.sum(jnp.sin(x), 1) * 2.0)), (_cube(rng),)


@rewrite("scale_before_reduction", "s*sum(x) -> sum(s*x)", _scales_of_sums, samples=_scaled_sum)
def scale_before_reduction(match: Match, x: jax.Array, s: jax.Array) -> jax.Array:
    """Next to what made the terms, which may take the scale over."""
    axes = axes_of(match, "sum")
    back = {d: k for k, d in enumerate(kept(x.ndim, axes))}
    by = spread(s, [back.get(d) for d in range(x.ndim)])
    return jax.lax.reduce_sum(scaled(match.op("scale"), x, by), axes)


def _whole_terms(match: Match) -> bool:
    return match.is_private("terms") and match.type("x") == match.type("y") == match.result("terms")


def _sum_of_terms(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    x = _cube(rng)
    return (lambda x, y: (jnp.sum(x - y, (0, 2)), jnp.sum(x + y))), (x, rng.standard_normal(x.shape))


@rewrite("sum_each_term", "sum(x + y) -> sum(x) + sum(y)",
         Call("reduce_sum", (Call("add|sub", (Var("x"), Var("y")), "terms"),), "sum"), where=_whole_terms,
         samples=_sum_of_terms)
def sum_each_term(match: Match, x: jax.Array, y: jax.Array) -> jax.Array:
    """A sum for each term, next to what made it."""
    axes = axes_of(match, "sum")
    return applied(match.op("terms"), [jax.lax.reduce_sum(x, axes), jax.lax.reduce_sum(y, axes)])


def _equal_sums(match: Match) -> bool:
    return match.type("x") == match.type("y") and axes_of(match, "one") == axes_of(match, "two") and \
        match.is_private("one") and match.is_private("two")


def _terms_of_sums(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    x = _cube(rng)
    return (lambda x, y: (jnp.sum(x, (0, 2)) - jnp.sum(y, (0, 2)))), (x, rng.standard_normal(x.shape))


@rewrite("sum_terms_at_once", "sum(x) + sum(y) -> sum(x + y)",
         Call("add|sub", (Call("reduce_sum", (Var("x"),), "one"), Call("reduce_sum", (Var("y"),), "two")), "terms"),
         where=_equal_sums, samples=_terms_of_sums)
def sum_terms_at_once(match: Match, x: jax.Array, y: jax.Array) -> jax.Array:
    """One sum for two: on several devices one reduction."""
    return jax.lax.reduce_sum(applied(match.op("terms"), [x, y]), axes_of(match, "one"))


REPEATABLE = "reduce_sum|reduce_max|reduce_min"


def _over_repeats(match: Match) -> bool:
    """Whether a reduction goes along a dimension that a broadcast repeated."""
    dims = tuple(int(d) for d in match.params("spread")["broadcast_dimensions"])
    shape = match.result("spread").shape
    same = {d for d, n in zip(dims, match.shape("x"), strict=True) if n == shape[d]}
    return match.is_private("spread") and any(a not in same for a in axes_of(match, "sum"))


def _sum_of_repeats(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b, c = (int(n) for n in rng.integers(2, 5, 3))
    return (lambda x, y: (jnp.sum(jax.lax.broadcast_in_dim(x, (a, b, c), (0, 2)), (1, 2)),
                          jnp.max(jax.lax.broadcast_in_dim(y, (a, b), (1,)), 0))), \
        (rng.standard_normal((a, c)), rng.standard_normal((b,)))


@rewrite("reduce_before_broadcast", "sum(broadcast(x)) -> n*sum(x), and its likes",
         Call(REPEATABLE, (Call("broadcast_in_dim", (Var("x"),), "spread"),), "sum"), where=_over_repeats,
         samples=_sum_of_repeats)
def reduce_before_broadcast(match: Match, x: jax.Array) -> jax.Array:
    """Equal terms are counted, not added."""
    shape, axes, primitive = match.result("spread").shape, axes_of(match, "sum"), match.op("sum").primitive
    dims = tuple(int(d) for d in match.params("spread")["broadcast_dimensions"])
    own = tuple(k for k, d in enumerate(dims) if d in axes)
    out = reduced(primitive, x, own) if own else x
    if primitive == "reduce_sum":
        times = math.prod(shape[a] for a in axes) // math.prod(x.shape[k] for k in own)
        out = out * jnp.asarray(times, out.dtype)
    left = kept(len(shape), axes)
    return jax.lax.broadcast_in_dim(out, tuple(shape[d] for d in left), [left.index(d) for d in dims if d not in axes])
