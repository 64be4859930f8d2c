"""Sums of products that share a factor, as one product and apart.

Where two products share an operand and their results are added, one product of a sum does half the arithmetic; where
both factors differ, one product of what is put beside each other reduces once instead of twice. Apart, a term that is
small or of low rank stays so. Source: distributivity in TASO (SOSP 2019, table 2).
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph, Literal
from planner.rewrites.einsums import dot, free_dims, numbers
from planner.rewrites.elementwise import applied
from planner.rewrites.pattern import Call, Match, Var, is_alone, maker, number_of, of_one_dtype, type_of
from planner.rewrites.table import rewrite


def _terms(pattern: Callable[[str], Call]) -> Call:
    return Call("add|sub", (pattern("one"), pattern("two")), "sum")


def _apart(match: Match) -> bool:
    return match.is_private("one") and match.is_private("two")


def _shared_factor(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b = rng.integers(1, 5, 2)
    return (lambda x, y, z: jnp.sin(x * y - y * z) + (2.0 * x + x * z)), \
        tuple(rng.standard_normal(shape) for shape in ((a, b), (a, b), (1, b)))


@rewrite("factor_product", "a*x + b*x -> (a + b)*x",
         _terms(lambda name: Call("mul", (Var({"one": "a", "two": "b"}[name]), Var("x")), name, commutes=True)),
         where=_apart, samples=_shared_factor)
def factor_product(match: Match, a: jax.Array, x: jax.Array, b: jax.Array) -> jax.Array:
    """One product for two."""
    return (a - b if match.op("sum").primitive == "sub" else a + b) * x


def _with_number(match: Match) -> bool:
    known = [number_of(match.graph, match.operands[name]) is not None for name in ("a", "b")]
    return match.is_private("sum") and sum(known) == 1


def _number_plus(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b = rng.integers(1, 5, 2)
    return (lambda x, y: (1.0 - jnp.tanh(x)) * y + (x + 3.0) * x), \
        (rng.standard_normal((a, b)), rng.standard_normal((a, b)))


@rewrite("distribute_product", "(a + c)*x -> a*x + c*x for a number c",
         Call("mul", (Call("add|sub", (Var("a"), Var("b")), "sum"), Var("x")), "product", commutes=True),
         where=_with_number, samples=_number_plus)
def distribute_product(match: Match, a: jax.Array, b: jax.Array, x: jax.Array) -> jax.Array:
    """A product for each term."""
    return applied(match.op("sum"), [a * x, b * x])


def _same_kind(match: Match) -> bool:
    """Whether two products differ in nothing but what they are products of."""
    one, two = (match.params(name) for name in ("one", "two"))
    keys = ("dimension_numbers", "precision", "preferred_element_type")
    return _apart(match) and all(str(one[k]) == str(two[k]) for k in keys) and match.result("sum") == \
        match.result("one") == match.result("two")


def _weights_differ(match: Match) -> bool:
    """What is added before the product is rounded as what was added after it."""
    return _same_kind(match) and match.type("w") == match.type("v") and of_one_dtype(match.graph, match.op("one"))


def _one_input(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    b, k, n = rng.integers(1, 5, 3)
    return (lambda x, w, v: jnp.tanh(x @ w - x @ v)), \
        (rng.standard_normal((b, 3, k)), rng.standard_normal((k, n)), rng.standard_normal((k, n)))


@rewrite("add_weights", "x·w + x·v -> x·(w + v)",
         _terms(lambda name: Call("dot_general", (Var("x"), Var({"one": "w", "two": "v"}[name])), name)),
         where=_weights_differ, samples=_one_input)
def add_weights(match: Match, x: jax.Array, w: jax.Array, v: jax.Array) -> jax.Array:
    """One product of the sum of the right operands."""
    return dot(match.params("one"), x, applied(match.op("sum"), [w, v]))


def _inputs_differ(match: Match) -> bool:
    return _same_kind(match) and match.type("x") == match.type("y") and of_one_dtype(match.graph, match.op("one"))


def _one_weight(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    b, k, n = rng.integers(1, 5, 3)
    return (lambda x, y, w: jnp.tanh(x @ w + y @ w)), \
        (rng.standard_normal((b, 3, k)), rng.standard_normal((b, 3, k)), rng.standard_normal((k, n)))


@rewrite("add_inputs", "x·w + y·w -> (x + y)·w",
         _terms(lambda name: Call("dot_general", (Var({"one": "x", "two": "y"}[name]), Var("w")), name)),
         where=_inputs_differ, samples=_one_weight)
def add_inputs(match: Match, x: jax.Array, w: jax.Array, y: jax.Array) -> jax.Array:
    """One product of the sum of the left operands."""
    return dot(match.params("one"), applied(match.op("sum"), [x, y]), w)


def _added_operands(graph: Graph) -> Iterator[Match]:
    """Products of which one operand is a sum of two arrays of its shape."""
    for n, op in enumerate(graph.ops):
        for side in (0, 1) if op.primitive == "dot_general" else ():
            for primitive in ("add", "sub"):
                m = maker(graph, op.operands[side], primitive)
                if m is None or not is_alone(graph, m):
                    continue
                terms = graph.ops[m].operands
                if len({type_of(graph, o) for o in (*terms, *graph.ops[m].results)}) == 1:
                    yield Match(graph, {"product": n, "sum": m},
                                {"a": terms[0], "b": terms[1], "other": op.operands[1 - side]}, {"side": side},
                                op.results)


def _added(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    b, k, n = rng.integers(2, 5, 3)
    return (lambda x, y, w, v: ((x + y) @ w, x @ (w - v @ v.T @ w))), \
        (rng.standard_normal((b, 3, k)), rng.standard_normal((b, 3, k)), rng.standard_normal((k, n)),
         rng.standard_normal((k, 1)))


@rewrite("distribute_over_sum", "(x + y)·w -> x·w + y·w, x·(w + v) -> x·w + x·v", _added_operands, samples=_added)
def distribute_over_sum(match: Match, a: jax.Array, b: jax.Array, other: jax.Array) -> jax.Array:
    """A product for each term."""
    left = match.numbers["side"] == 0
    each = [dot(match.params("product"), *((x, other) if left else (other, x))) for x in (a, b)]
    return applied(match.op("sum"), each)


def _joinable(match: Match) -> bool:
    """Whether two products contract, and differ in nothing but the length of the first contracted dimension."""
    (left, right), _ = numbers(match.op("one"))
    if not _same_kind(match) or not left:
        return False
    alike = [_but(match.shape(a), d) == _but(match.shape(b), d) and match.type(a).dtype == match.type(b).dtype
             for a, b, d in (("x", "y", left[0]), ("w", "v", right[0]))]
    different = match.operands["x"] != match.operands["y"] and match.operands["w"] != match.operands["v"]
    return all(alike) and different


def _but(shape: tuple[int, ...], dim: int) -> tuple[int, ...]:
    return (*shape[:dim], *shape[dim + 1:])


def _two_products(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    b, k, m, n = rng.integers(1, 5, 4)
    return (lambda x, w, y, v: jnp.tanh(x @ w + y @ v)), \
        (rng.standard_normal((b, 3, k)), rng.standard_normal((k, n)), rng.standard_normal((b, 3, m)),
         rng.standard_normal((m, n)))


@rewrite("join_contractions", "x·w + y·v -> [x y]·[w; v]",
         Call("add", (Call("dot_general", (Var("x"), Var("w")), "one"),
                      Call("dot_general", (Var("y"), Var("v")), "two")), "sum"),
         where=_joinable, samples=_two_products)
def join_contractions(match: Match, x: jax.Array, w: jax.Array, y: jax.Array, v: jax.Array) -> jax.Array:
    """One product, and one reduction, of operands put beside each other."""
    (left, right), _ = numbers(match.op("one"))
    return dot(match.params("one"), jnp.concatenate([x, y], left[0]), jnp.concatenate([w, v], right[0]))


def _concatenated_operands(graph: Graph) -> Iterator[Match]:
    """Products of which one operand was put together along a dimension that is contracted or free."""
    for n, op in enumerate(graph.ops):
        for side in (0, 1) if op.primitive == "dot_general" else ():
            m = maker(graph, op.operands[side], "concatenate")
            if m is None or not is_alone(graph, m) or any(isinstance(o, Literal) for o in op.operands):
                continue
            along = graph.ops[m].params["dimension"]
            if along not in numbers(op)[1][side]:
                parts = {str(k): o for k, o in enumerate(graph.ops[m].operands)}
                yield Match(graph, {"product": n, "joined": m}, {"other": op.operands[1 - side], **parts},
                            {"side": side}, op.results)


def _concatenated(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    b, k, m, n = rng.integers(1, 5, 4)
    return (lambda x, y, z, w, v: (jnp.concatenate([x, y], -1) @ w, jnp.concatenate([x, z], 0) @ v)), \
        (rng.standard_normal((b, 3, k)), rng.standard_normal((b, 3, m)), rng.standard_normal((2, 3, k)),
         rng.standard_normal((k + m, n)), rng.standard_normal((k, n)))


@rewrite("split_concatenated", "[x y]·[w; v] -> x·w + y·v, [x; y]·w -> [x·w; y·w]", _concatenated_operands,
         samples=_concatenated)
def split_concatenated(match: Match, other: jax.Array, *parts: jax.Array) -> jax.Array:
    """A product for each part, with the part of the other operand that it is contracted with."""
    op, side = match.op("product"), int(match.numbers["side"])
    along = match.params("joined")["dimension"]
    mine, theirs = numbers(op)[0][side], numbers(op)[0][1 - side]
    results: list[jax.Array] = []
    start = 0
    for part in parts:
        beside, length = other, part.shape[along]
        if along in mine:
            beside = jax.lax.slice_in_dim(other, start, start + length, axis=theirs[mine.index(along)])
        results.append(dot(op.params, *((part, beside) if side == 0 else (beside, part))))
        start += length
    if along in mine:
        return sum(results[1:], results[0])
    free = free_dims(op, side, parts[0].ndim)
    before = len(numbers(op)[1][0]) + (0 if side == 0 else results[0].ndim - len(numbers(op)[1][0]) - len(free))
    return jnp.concatenate(results, before + free.index(along))
