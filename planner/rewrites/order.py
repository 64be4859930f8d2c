"""Casts, scales and sums before or after what has to be reduced over devices.

A product whose contraction is sharded makes partial sums, and what is linear may come before their sum or after it: a
cast before halves the bytes that are sent, or keeps digits; products that are added are reduced at once. Source:
Megatron-LM's reductions in 16 bits, and one reduction per parallel block as in Chowdhery et al. 2022 (PaLM, section 2).
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph
from planner.rewrites.einsums import names_algorithm, numbers, product
from planner.rewrites.elementwise import applied
from planner.rewrites.pattern import Call, Match, Var, is_alone, maker, type_of
from planner.rewrites.scales import scaled, scaled_operand, scaling
from planner.rewrites.table import rewrite

CAST = "convert_element_type"


def _bits(dtype: str) -> int:
    return jnp.dtype(dtype).itemsize if dtype.startswith(("float", "bfloat")) else 0


def _casts(match: Match, *, narrower: bool) -> bool:
    """Whether a product is private, and cast to fewer (or more) bits than it is made in, no fewer than its operands
    have."""
    before, after = _bits(match.result("product").dtype), _bits(match.result("cast").dtype)
    of = max(_bits(match.type(name).dtype) for name in ("a", "b"))
    plain = match.is_private("product") and not names_algorithm(match.op("product"))
    return plain and 0 < of <= after and bool(before) and (after < before if narrower else after > before)


def _small(rng: np.random.Generator) -> tuple[Any, Any]:
    """Numbers of few digits, which are exact in any precision."""
    b, k, n = rng.integers(1, 5, 3)
    return rng.integers(-4, 5, (b, k)).astype(np.float32), rng.integers(-4, 5, (k, n)).astype(np.float32)


def _wide(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return (lambda x, w: jnp.matmul(x, w, preferred_element_type=jnp.float64).astype(jnp.float32)), _small(rng)


PATTERN = Call(CAST, (Call("dot_general", (Var("a"), Var("b")), "product"),), "cast")


@rewrite("cast_before_reduction", "cast of x·w to fewer bits -> x·w made in those", PATTERN,
         where=lambda match: _casts(match, narrower=True), samples=_wide,
         assumes="partial sums are added in the smaller type where they are reduced over devices")
def cast_before_reduction(match: Match, a: jax.Array, b: jax.Array) -> jax.Array:
    """Fewer bytes are reduced."""
    return _made_in(match, a, b)


def _narrow(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return (lambda x, w: jnp.tanh((x @ w).astype(jnp.float64))), _small(rng)


@rewrite("cast_after_reduction", "cast of x·w to more bits -> x·w made in those", PATTERN,
         where=lambda match: _casts(match, narrower=False), samples=_narrow)
def cast_after_reduction(match: Match, a: jax.Array, b: jax.Array) -> jax.Array:
    """What is reduced keeps its digits, and needs no pass for the cast."""
    return _made_in(match, a, b)


def _made_in(match: Match, a: jax.Array, b: jax.Array) -> jax.Array:
    params = {**match.params("product"), "preferred_element_type": jnp.dtype(match.result("cast").dtype)}
    return product(params, a, b, *numbers(match.op("product")))


def _scaled_casts(graph: Graph) -> Iterator[Match]:
    """Scales of what was cast to more bits for them alone."""
    for n in range(len(graph.ops)):
        found = scaling(graph, n)
        m = None if found is None else maker(graph, found[1], CAST)
        if found is None or m is None or not is_alone(graph, m):
            continue
        x = graph.ops[m].operands[0]
        if 0 < _bits(type_of(graph, x).dtype) < _bits(graph.values[graph.ops[m].results[0]].dtype):
            yield Match(graph, {"scale": n, "cast": m}, {"x": x, "by": found[2]}, {}, graph.ops[n].results)


def _scaled_wide(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    x, _ = _small(rng)
    return (lambda x: jnp.tanh(jnp.sin(x).astype(jnp.float64) * 0.3)), (x,)


@rewrite("scale_before_cast", "s*cast(x) -> cast(s*x), for a cast to more bits", _scaled_casts, samples=_scaled_wide,
         assumes="the scale may be rounded to the smaller type")
def scale_before_cast(match: Match, x: jax.Array, by: jax.Array) -> jax.Array:
    """Next to the product that made x, which may take the scale over."""
    return scaled(match.op("scale"), x, by).astype(match.result("cast").dtype)


def _casts_of_scaled(graph: Graph) -> Iterator[Match]:
    """Casts to fewer bits of what was scaled for them alone."""
    for n, op in enumerate(graph.ops):
        found = scaled_operand(graph, op.operands[0]) if op.primitive == CAST else None
        if found is not None and 0 < _bits(graph.values[op.results[0]].dtype) < _bits(type_of(graph, found[1]).dtype):
            yield Match(graph, {"cast": n, "scale": found[0]}, {"x": found[1], "by": found[2]}, {}, op.results)


def _narrow_scaled(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    x, _ = _small(rng)
    return (lambda x, s: jnp.tanh((x.astype(jnp.float64) * s).astype(jnp.float32))), \
        (x.astype(np.float64) + 0.5, rng.standard_normal((1, x.shape[1])) if x.shape[0] > 1 else np.float64(0.3))


@rewrite("scale_after_cast", "cast(s*x) -> s*cast(x), for a cast to fewer bits", _casts_of_scaled,
         samples=_narrow_scaled, assumes="the scale may be rounded to the smaller type")
def scale_after_cast(match: Match, x: jax.Array, by: jax.Array) -> jax.Array:
    """The cast next to what made x: what is between takes fewer bytes."""
    return scaled(match.op("scale"), x.astype(match.result("cast").dtype), by)


def _partial(graph: Graph, operand: Any) -> bool:
    """Whether an operand is the result of a product, cast or scaled or with a bias, or of a sum of such."""
    n = graph.producers.get(operand) if isinstance(operand, int) else None
    if n is None:
        return False
    op = graph.ops[n]
    if op.primitive in (CAST, "transpose", "reshape"):
        return _partial(graph, op.operands[0])
    found = scaling(graph, n, ("mul", "div", "add", "sub"))
    return op.primitive == "dot_general" or (found is not None and _partial(graph, found[1]))


def _products_added_late(graph: Graph) -> Iterator[Match]:
    """(y + p) + q for products p and q and something else y, of one type."""
    for n, op in enumerate(graph.ops):
        for outer in (0, 1) if op.primitive == "add" else ():
            m = maker(graph, op.operands[outer], "add")
            q = op.operands[1 - outer]
            if m is None or not is_alone(graph, m) or not _partial(graph, q):
                continue
            for inner in (0, 1):
                y, p = graph.ops[m].operands[1 - inner], graph.ops[m].operands[inner]
                alike = len({type_of(graph, o) for o in (y, p, q, op.results[0])}) == 1
                if alike and _partial(graph, p) and not _partial(graph, y):
                    yield Match(graph, {"outer": n, "inner": m}, {"y": y, "p": p, "q": q}, {}, op.results)
                    break


def _parallel_block(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b = rng.integers(2, 5, 2)
    return (lambda y, w, v: (y + jnp.sin(y) @ w) + jnp.tanh(y) @ v / 3.0), \
        (rng.standard_normal((a, b)), rng.standard_normal((b, b)), rng.standard_normal((b, b)))


@rewrite("add_products_first", "(y + x·w) + z·v -> y + (x·w + z·v)", _products_added_late, samples=_parallel_block)
def add_products_first(match: Match, y: jax.Array, p: jax.Array, q: jax.Array) -> jax.Array:
    """Two partial sums are reduced as one."""
    return applied(match.op("outer"), [y, applied(match.op("inner"), [p, q])])
