"""Scales and shifts one after the other: merged into one, or in the other order.

Source: inference with normalised layers, where a norm's scale and shift are those of the layer before it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph
from planner.rewrites.elementwise import applied
from planner.rewrites.pattern import Match, type_of
from planner.rewrites.scales import scaled, scaled_operand, scaling
from planner.rewrites.table import rewrite


def _scaled_twice(graph: Graph) -> Iterator[Match]:
    """Scales of scales that together are no larger than each."""
    for n in range(len(graph.ops)):
        outer = scaling(graph, n)
        inner = None if outer is None else scaled_operand(graph, outer[1])
        if outer is None or inner is None:
            continue
        shapes = [type_of(graph, by).shape for by in (inner[2], outer[2])]
        if () in shapes or shapes[0] == shapes[1]:
            yield Match(graph, {"outer": n, "inner": inner[0]}, {"x": inner[1], "s": inner[2], "t": outer[2]}, {},
                        graph.ops[n].results)


def _twice(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b = rng.integers(2, 5, 2)
    return (lambda x, s: (x * s * 2.0, jnp.sin(x) / 3.0 * s, x / 3.0 / (2.0 + s * s))), \
        (rng.standard_normal((a, b)), rng.standard_normal((1, b)))


@rewrite("merge_scales", "(x*s)*t -> x*(s*t)", _scaled_twice, samples=_twice)
def merge_scales(match: Match, x: jax.Array, s: jax.Array, t: jax.Array) -> jax.Array:
    """One pass over what is large."""
    inner, outer = (match.op(name).primitive == "div" for name in ("inner", "outer"))
    if inner and outer:
        return x / (s * t)
    return x * (t / s if inner else s / t if outer else s * t)


def _shifted_and_scaled(graph: Graph) -> Iterator[Match]:
    """Scales of sums with a bias."""
    for n in range(len(graph.ops)):
        outer = scaling(graph, n)
        inner = None if outer is None else scaled_operand(graph, outer[1], ("add", "sub"))
        if outer is None or inner is None:
            continue
        shapes = [type_of(graph, by).shape for by in (inner[2], outer[2])]
        if shapes[0] and (not shapes[1] or shapes[0] == shapes[1]):
            yield Match(graph, {"scale": n, "shift": inner[0]}, {"x": inner[1], "b": inner[2], "s": outer[2]}, {},
                        graph.ops[n].results)


def _normalised(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b = rng.integers(2, 5, 2)
    return (lambda x, m, s: ((x - m) * s, jnp.sin(x + m) + (x + m) / 3.0)), \
        (rng.standard_normal((a, b)), rng.standard_normal((1, b)), rng.standard_normal((1, b)))


@rewrite("scale_before_bias", "(x + b)*s -> x*s + b*s", _shifted_and_scaled, samples=_normalised)
def scale_before_bias(match: Match, x: jax.Array, b: jax.Array, s: jax.Array) -> jax.Array:
    """The scale first, next to what came before."""
    return applied(match.op("shift"), [scaled(match.op("scale"), x, s), scaled(match.op("scale"), b, s)])


def _scaled_and_shifted(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b = rng.integers(2, 5, 2)
    return (lambda x, m: jnp.sin(x * 2.0 + m * 2.0)), (rng.standard_normal((a, b)), rng.standard_normal((a, b)))


def _equal_scales(graph: Graph) -> Iterator[Match]:
    """Sums of two arrays that are scaled by the same, each on its own."""
    for n, op in enumerate(graph.ops):
        found = [f for o in op.operands if (f := scaled_operand(graph, o))] if op.primitive in ("add", "sub") else []
        if len(found) != 2:
            continue
        (one, x, s), (two, y, t) = found
        alike = type_of(graph, x) == type_of(graph, y) and graph.ops[one].primitive == graph.ops[two].primitive
        if alike and one != two and _same(s, t):
            yield Match(graph, {"sum": n, "one": one, "two": two}, {"x": x, "y": y, "s": s}, {}, op.results)


def _same(s: Any, t: Any) -> bool:
    if isinstance(s, int) or isinstance(t, int):
        return s is t or s == t
    return s.dtype == t.dtype and s.shape == t.shape and np.array_equal(s.value, t.value)


@rewrite("scale_after_sum", "s*x + s*y -> s*(x + y)", _equal_scales, samples=_scaled_and_shifted)
def scale_after_sum(match: Match, x: jax.Array, y: jax.Array, s: jax.Array) -> jax.Array:
    """One scale for two."""
    return scaled(match.op("one"), applied(match.op("sum"), [x, y]), s)
