"""Sums merged, split, and moved past sums, scales and broadcasts.

A sum over several dimensions is a sum of sums; in which order, and before or after what is linear, decides how large
what is between is, and what has to be reduced over devices. Source: TASO (SOSP 2019, table 2), Unity (OSDI 2022,
section 3) for reductions that are parallelised.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph
from planner.rewrites.broadcasts import repeated
from planner.rewrites.elementwise import applied
from planner.rewrites.pattern import Call, Match, Var, is_alone, maker
from planner.rewrites.scales import scaled, scaled_operand, scaling, spread, varies
from planner.rewrites.table import rewrite

REDUCTIONS = MappingProxyType({
    "reduce_sum": jax.lax.reduce_sum, "reduce_max": jax.lax.reduce_max, "reduce_min": jax.lax.reduce_min,
    "reduce_prod": jax.lax.reduce_prod, "reduce_and": jax.lax.reduce_and, "reduce_or": jax.lax.reduce_or})
"""JAX's names -> the functions that make them, which keep the dtype."""

SUMS = "|".join(REDUCTIONS)
"""All of them, as a pattern says it."""


TIED = "reduce_max|reduce_min"
"""Those whose gradient is shared among equal elements; a share of a share may be another than one of all."""

ADDED = "|".join(name for name in REDUCTIONS if name not in TIED.split("|"))

NO_TIES = "no gradient passes, or it may be shared otherwise among equal elements"
"""What holds in a softmax, whose largest element is not differentiated."""


def reduced(primitive: str, x: jax.Array, axes: Iterable[int]) -> jax.Array:
    """A reduction like another, over given dimensions."""
    return REDUCTIONS[primitive](x, tuple(axes))


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


def _summed_twice(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return (lambda x: (jnp.sum(jnp.sum(x, 1), 1), jnp.prod(jnp.prod(x, 0), 1))), (_cube(rng),)


@rewrite("merge_reductions", "a sum of a sum -> one over all their dimensions; products, all and any alike",
         Call(ADDED, (Call(ADDED, (Var("x"),), "inner"),), "outer"), where=_same_reduction, samples=_summed_twice)
def merge_reductions(match: Match, x: jax.Array) -> jax.Array:
    """One for two."""
    inner = axes_of(match, "inner")
    left = kept(x.ndim, inner)
    return reduced(match.op("outer").primitive, x, sorted((*inner, *(left[a] for a in axes_of(match, "outer")))))


def _largest_twice(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return (lambda x: (jnp.max(jnp.max(x, 1), 1), jnp.min(jnp.min(x, 0), 1))), (_cube(rng),)


rewrite("merge_largest", "the largest of the largest -> of all; the smallest alike",
        Call(TIED, (Call(TIED, (Var("x"),), "inner"),), "outer"), where=_same_reduction, samples=_largest_twice,
        assumes=NO_TIES, rounding=False)(merge_reductions)


def _over_several(match: Match) -> bool:
    return sum(match.shape("x")[a] > 1 for a in axes_of(match, "sum")) > 1


def _summed_at_once(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return (lambda x: (jnp.sum(x, (0, 2)), jnp.sum(jnp.sin(x)[..., None]))), (_cube(rng),)


@rewrite("split_reduction", "a sum over several dimensions -> over the last, then over the others; products, all and "
         "any alike", Call(ADDED, (Var("x"),), "sum"), where=_over_several, samples=_summed_at_once)
def split_reduction(match: Match, x: jax.Array) -> jax.Array:
    """What is next to each other in memory first; dimensions of size 1 go with it."""
    axes, primitive = axes_of(match, "sum"), match.op("sum").primitive
    last = max(a for a in axes if x.shape[a] > 1)
    return reduced(primitive, reduced(primitive, x, [a for a in axes if a >= last]), [a for a in axes if a < last])


def _largest_at_once(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return (lambda x: (jnp.max(x, (0, 2)), jnp.min(x))), (_cube(rng),)


rewrite("split_largest", "the largest along several dimensions -> along the last, then along the others; the smallest "
        "alike", Call(TIED, (Var("x"),), "sum"), where=_over_several, samples=_largest_at_once, assumes=NO_TIES,
        rounding=False)(split_reduction)


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
    shape = match.result("spread").shape
    again = repeated(match.graph, match.ops["spread"]) & set(axes_of(match, "sum"))
    return match.is_private("spread") and bool(again) and _counts(math.prod(shape[a] for a in again), match)


def _counts(times: int, match: Match) -> bool:
    """Whether the dtype of a sum can say how many equal terms there are; integers wrap round either way."""
    dtype = jnp.dtype(match.result("sum").dtype)
    return not jnp.issubdtype(dtype, jnp.inexact) or times <= float(jnp.finfo(dtype).max)


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
        out = out * np.asarray(times).astype(out.dtype)
    left = kept(len(shape), axes)
    return jax.lax.broadcast_in_dim(out, tuple(shape[d] for d in left), [left.index(d) for d in dims if d not in axes])
