"""Transposes moved past what does not mind, merged, and dropped where one undoes another.

A transpose costs a pass over memory, and where it stands decides which products see which dimensions. Source: the
operators of TASO (SOSP 2019, table 2) that commute with a transpose.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph
from planner.rewrites.elementwise import applied, is_elementwise, is_small, numbers_of, others, with_numbers
from planner.rewrites.pattern import Call, Match, Var, is_alone, maker
from planner.rewrites.reductions import SUMS, reduced
from planner.rewrites.table import rewrite

Perm = tuple[int, ...]


def permutation(match: Match, name: str) -> Perm:
    """Of a matched transpose: result dimension -> operand dimension."""
    return tuple(int(p) for p in match.params(name)["permutation"])


def inverse(perm: Sequence[int]) -> Perm:
    """The permutation that undoes another."""
    return tuple(int(p) for p in np.argsort(perm))


def _perm(graph: Graph, n: int) -> Perm:
    return tuple(int(p) for p in graph.ops[n].params["permutation"])


def _array(rng: np.random.Generator, rank: int) -> Any:
    return rng.standard_normal(tuple(rng.integers(1, 5, rank)))


def _two(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    p, q = (tuple(int(d) for d in rng.permutation(4)) for _ in range(2))
    p = p if p != (0, 1, 2, 3) else (3, 1, 0, 2)
    q = q if q != (0, 1, 2, 3) else (1, 0, 2, 3)
    return (lambda x: jnp.sin(jax.lax.transpose(jax.lax.transpose(x, p), q))), (_array(rng, 4),)


@rewrite("merge_transposes", "transpose of transpose(x) -> one transpose, or x",
         Call("transpose", (Call("transpose", (Var("x"),), "inner"),), "outer"), samples=_two, rounding=False)
def merge_transposes(match: Match, x: jax.Array) -> jax.Array:
    """One for two, or none if they undo each other."""
    inner, outer = permutation(match, "inner"), permutation(match, "outer")
    return jax.lax.transpose(x, tuple(inner[p] for p in outer))


def _read_transposed(graph: Graph) -> Iterator[Match]:
    """Elementwise operators that read results of equal transposes, and beside them only numbers and what is small."""
    for n, op in enumerate(graph.ops):
        if not is_elementwise(op) or len(op.results) != 1:
            continue
        shape, numbers = graph.values[op.results[0]].shape, numbers_of(graph, op)
        ops, operands, perms = {"op": n}, others(op, numbers), set[Perm]()
        for k, operand in list(operands.items()):
            m = maker(graph, operand, "transpose")
            if m is not None and is_alone(graph, m):
                perms.add(_perm(graph, m))
                ops[f"move{k}"] = m
                operands[k] = graph.ops[m].operands[0]
            elif not is_small(graph, operand, shape):
                perms.add(())
        if len(perms) == 1 and () not in perms:
            yield Match(graph, ops, operands, numbers, op.results)


def _transposed_after(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b, c = rng.integers(2, 5, 3)
    return (lambda x, y, z: jnp.tanh(jnp.transpose(x, (1, 2, 0)) * jnp.transpose(y, (1, 2, 0)) + z)), \
        (rng.standard_normal((a, b, c)), rng.standard_normal((a, b, c)), rng.standard_normal((1, 1, a)))


@rewrite("transpose_after_elementwise", "f(transpose(x), ...) -> transpose(f(x, ...))", _read_transposed,
         samples=_transposed_after)
def transpose_after_elementwise(match: Match, *arrays: jax.Array) -> jax.Array:
    """The elementwise operator first."""
    op = match.op("op")
    perm = permutation(match, next(name for name in match.ops if name != "op"))
    given = {k: x if f"move{k}" in match.ops else jax.lax.transpose(x, inverse(perm))
             for k, x in zip(match.operands, arrays, strict=True)}
    shape = tuple(match.result("op").shape[p] for p in inverse(perm))
    return jax.lax.transpose(applied(op, with_numbers(match.graph, op, match.numbers, given, shape)), perm)


def _elementwise_moved(graph: Graph) -> Iterator[Match]:
    """Transposes of what elementwise operators make of one large operand."""
    for n, op in enumerate(graph.ops):
        m = graph.producers.get(op.operands[0], -1) if op.primitive == "transpose" and op.inputs else -1  # type: ignore
        if m < 0 or not is_elementwise(graph.ops[m]) or not is_alone(graph, m):
            continue
        inner = graph.ops[m]
        shape, numbers = graph.values[inner.results[0]].shape, numbers_of(graph, inner)
        operands = others(inner, numbers)
        if sum(not is_small(graph, o, shape) for o in operands.values()) == 1:
            yield Match(graph, {"move": n, "op": m}, operands, numbers, op.results)


def _transposed_before(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b, c = rng.integers(2, 5, 3)
    return (lambda x, z: jnp.transpose(jnp.tanh(x) * z, (2, 0, 1))), \
        (rng.standard_normal((a, b, c)), rng.standard_normal((1, b, 1)))


@rewrite("transpose_before_elementwise", "transpose(f(x, ...)) -> f(transpose(x), ...)", _elementwise_moved,
         samples=_transposed_before)
def transpose_before_elementwise(match: Match, *arrays: jax.Array) -> jax.Array:
    """The transpose first."""
    op, perm = match.op("op"), permutation(match, "move")
    given = {k: jax.lax.transpose(x, perm) for k, x in zip(match.operands, arrays, strict=True)}
    return applied(op, with_numbers(match.graph, op, match.numbers, given, match.result("move").shape))


def _reduced_transpose(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    axes = tuple(int(d) for d in rng.permutation(4)[:2])
    return (lambda x: (jnp.sum(jnp.transpose(x, (2, 0, 3, 1)), axes), jnp.max(jnp.transpose(x, (3, 2, 1, 0)), axes))), \
        (_array(rng, 4),)


@rewrite("transpose_after_reduction", "reduction of transpose(x) -> transpose of a reduction of x, or none",
         Call(SUMS, (Call("transpose", (Var("x"),), "move"),), "sum"), samples=_reduced_transpose)
def transpose_after_reduction(match: Match, x: jax.Array) -> jax.Array:
    """The reduction first: what is left to transpose is smaller."""
    perm, axes = permutation(match, "move"), {int(a) for a in match.params("sum")["axes"]}
    kept = [p for d, p in enumerate(perm) if d not in axes]
    out = reduced(match.op("sum").primitive, x, tuple(sorted(perm[d] for d in axes)))
    return jax.lax.transpose(out, tuple(sorted(kept).index(p) for p in kept))


def _grows(match: Match) -> bool:
    return len(match.shape("x")) > 1 and match.is_private("spread") and \
        math.prod(match.shape("x")) < math.prod(match.result("spread").shape)


def _spread_transpose(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b, c = (int(n) for n in rng.integers(2, 5, 3))
    return (lambda x: jnp.sin(jnp.transpose(jax.lax.broadcast_in_dim(x, (a, b, c), (0, 2)), (2, 1, 0)))), \
        (rng.standard_normal((a, c)),)


@rewrite("transpose_before_broadcast", "transpose(broadcast(x)) -> broadcast(transpose(x))",
         Call("transpose", (Call("broadcast_in_dim", (Var("x"),), "spread"),), "move"), where=_grows,
         samples=_spread_transpose)
def transpose_before_broadcast(match: Match, x: jax.Array) -> jax.Array:
    """What is transposed is smaller. (Its gradient is summed in another order.)"""
    perm, dims = permutation(match, "move"), [int(d) for d in match.params("spread")["broadcast_dimensions"]]
    places = [perm.index(d) for d in dims]
    order = [int(k) for k in np.argsort(places)]
    return jax.lax.broadcast_in_dim(jax.lax.transpose(x, order), match.result("move").shape, sorted(places))
