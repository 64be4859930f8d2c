"""Lookups as products with one-hot rows, or masked sums, and back.

A lookup reads few rows of a table, but every device needs all rows, or asks all others; a product with one-hot rows
reads the whole table, and stays local where rows are sharded: what it makes is a partial sum. Source: the one-hot
dispatch of GShard (Lepikhin et al. 2020) and vocabulary-parallel embeddings of Megatron-LM (Shoeybi et al. 2019).
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph, Op, Operand
from planner.rewrites.einsums import free_dims, numbers
from planner.rewrites.pattern import Call, Match, Number, Var, is_alone, maker, number_of, type_of
from planner.rewrites.table import rewrite
from planner.trace.dtypes import is_inexact


def one_hot(graph: Graph, operand: Operand, axis: int) -> Operand | None:
    """The indices, of size 1 along an axis, of which an array of booleans is the one-hot form along it."""
    n = maker(graph, operand, "eq")
    if n is None:
        return None
    shape = graph.values[graph.ops[n].results[0]].shape
    for index, counter in ((0, 1), (1, 0)):
        indices, count = graph.ops[n].operands[index], graph.ops[n].operands[counter]
        typed = type_of(graph, indices)
        if isinstance(indices, int) and typed.shape == (*shape[:axis], 1, *shape[axis + 1:]) \
                and typed.dtype.startswith(("int", "uint")) and _counts(graph, count, axis, shape[axis]):
            return indices
    return None


def _counts(graph: Graph, operand: Operand, axis: int, length: int) -> bool:
    """Whether an array is 0, 1, 2, ... along an axis and of size 1, or the same, along all others."""
    n = graph.producers.get(operand) if isinstance(operand, int) else None
    op = graph.ops[n] if n is not None else None
    if op is None or type_of(graph, operand).shape[axis] != length:
        return False
    if op.primitive == "broadcast_in_dim":
        dims = [int(d) for d in op.params["broadcast_dimensions"]]
        return axis in dims and _counts(graph, op.operands[0], dims.index(axis), length)
    whole = op.primitive == "iota" and op.params["dimension"] == axis
    return whole and length - 1 <= int(jnp.iinfo(type_of(graph, operand).dtype).max)  # or it would begin anew


def _wide(indices: jax.Array) -> jax.Array:
    """Indices in a dtype that counts to any length."""
    return indices.astype(jnp.int32) if indices.dtype.itemsize < 4 else indices


def _chosen(indices: jax.Array, shape: tuple[int, ...], axis: int) -> jax.Array:
    """Which elements of a shape indices, of size 1 along an axis, choose along it."""
    wanted = _wide(indices)
    counter = tuple(n if d == axis else 1 for d, n in enumerate(shape))
    return wanted == jax.lax.broadcasted_iota(wanted.dtype, counter, axis)


def _row_lookups(graph: Graph) -> Iterator[Match]:
    """Lookups of whole rows of a table."""
    for n, op in enumerate(graph.ops):
        if op.primitive != "gather" or not is_inexact(type_of(graph, op.operands[0]).dtype):
            continue
        d, table, indices = op.params["dimension_numbers"], *(type_of(graph, o).shape for o in op.operands)
        rank = len(indices) - 1
        if d.collapsed_slice_dims == d.start_index_map == (0,) and not d.operand_batching_dims and len(table) > 1 \
                and indices[-1] == 1 and tuple(op.params["slice_sizes"]) == (1, *table[1:]) \
                and tuple(d.offset_dims) == tuple(range(rank, rank + len(table) - 1)):
            yield Match(graph, {"lookup": n}, {"table": op.operands[0], "indices": op.operands[1]}, {}, op.results)


def _lookup(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    v, d, a, b = (int(n) for n in rng.integers(2, 6, 4))
    return (lambda t, i: jnp.sin(t[i])), (rng.standard_normal((v, d)), rng.integers(v, size=(a, b)))


@rewrite("lookup_as_product", "rows of a table -> one_hot(indices)·table", _row_lookups, samples=_lookup,
         assumes="indices are in range, and the table is finite")
def lookup_as_product(match: Match, table: jax.Array, indices: jax.Array) -> jax.Array:
    """A product that may be sharded over rows, and whose gradient is a product too."""
    shape = (*indices.shape[:-1], table.shape[0])
    rows = _chosen(indices, shape, len(shape) - 1).astype(table.dtype)
    return jax.lax.dot_general(rows, table, (((len(shape) - 1,), (0,)), ((), ())), precision="highest",
                               preferred_element_type=table.dtype)


def _one_hot_products(graph: Graph) -> Iterator[Match]:
    """Products with one-hot rows."""
    for n, op in enumerate(graph.ops):
        for side in (0, 1) if op.primitive == "dot_general" else ():
            contracted, batch = numbers(op)
            cast = maker(graph, op.operands[side], "convert_element_type")
            if cast is None or len(contracted[0]) != 1 or batch[0] or not is_alone(graph, cast):
                continue
            indices = one_hot(graph, graph.ops[cast].operands[0], contracted[side][0])
            if indices is not None:
                yield Match(graph, {"product": n, "rows": cast},
                            {"indices": indices, "table": op.operands[1 - side]}, {"side": side}, op.results)


def _one_hot(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    v, d, a, b = (int(n) for n in rng.integers(2, 6, 4))
    return (lambda t, i: (jax.nn.one_hot(i, v, dtype=t.dtype) @ t,
                          jnp.einsum("vd,abv->dab", t, jax.nn.one_hot(2 * i - 1, v, dtype=t.dtype)))), \
        (rng.standard_normal((v, d)), rng.integers(v, size=(a, b)))


@rewrite("product_as_lookup", "one_hot(indices)·table -> rows of the table", _one_hot_products, samples=_one_hot,
         assumes="the table is finite: its other rows are not multiplied by 0")
def product_as_lookup(match: Match, indices: jax.Array, table: jax.Array) -> jax.Array:
    """A lookup that reads the rows it needs; of an index out of range a row of zeros, as of the product."""
    op, side = match.op("product"), int(match.numbers["side"])
    (along,), (axis,) = numbers(op)[0][1 - side], numbers(op)[0][side]
    wanted = jnp.squeeze(indices, axis)
    free = free_dims(op, 1 - side, table.ndim)
    table = jnp.transpose(table, (along, *free))
    rows = table.at[_counted(wanted, table.shape[0])].get(mode="fill", fill_value=0)
    rows = rows.astype(match.result("product").dtype)
    last = tuple(range(wanted.ndim, rows.ndim))
    return rows if side == 0 else jnp.transpose(rows, (*last, *range(wanted.ndim)))


def _counted(indices: jax.Array, length: int) -> jax.Array:
    """Indices of which negative ones, too, are out of range: JAX would count them from the end."""
    indices = _wide(indices)
    return jnp.where((indices < 0) | (indices >= length), length, indices).astype(jnp.uint32)


def _sums_of(graph: Graph, primitive: str) -> Iterator[tuple[int, int, int]]:
    """Sums along one axis of what an operator makes for them alone: both operators, the axis."""
    for n, op in enumerate(graph.ops):
        m = maker(graph, op.operands[0], primitive) if op.primitive == "reduce_sum" else None
        if m is not None and len(op.params["axes"]) == 1 and is_alone(graph, m):
            yield n, m, int(op.params["axes"][0])


def _picked_sums(graph: Graph) -> Iterator[Match]:
    """Sums of arrays of which all is masked but one element each."""
    for n, m, axis in _sums_of(graph, "select_n"):
        which, rest, *picked = graph.ops[m].operands
        zero = number_of(graph, rest)
        indices = one_hot(graph, which, axis) if zero is not None and not zero and len(picked) == 1 else None
        if indices is not None:
            yield Match(graph, {"sum": n, "masked": m}, {"x": picked[0], "indices": indices}, {}, graph.ops[n].results)


def _picked_products(graph: Graph) -> Iterator[Match]:
    """Sums of arrays of which all is multiplied by zero but one element each."""
    for n, m, axis in _sums_of(graph, "mul"):
        op = graph.ops[m]
        for rows, x in ((0, 1), (1, 0)):
            cast = maker(graph, op.operands[rows], "convert_element_type")
            indices = one_hot(graph, graph.ops[cast].operands[0], axis) if cast is not None else None
            if indices is not None and type_of(graph, op.operands[x]) == graph.values[op.results[0]]:
                yield Match(graph, {"sum": n, "masked": m}, {"x": op.operands[x], "indices": indices}, {},
                            graph.ops[n].results)


def _picked(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    v, a, b = (int(n) for n in rng.integers(2, 6, 3))
    return (lambda x, i: jnp.sum(jnp.where(jnp.arange(v) == i[..., None], x, 0.0), -1)), \
        (rng.standard_normal((a, b, v)), rng.integers(v, size=(a, b)))


@rewrite("picked_as_lookup", "sum(where(counter == i, x, 0)) -> x[i]", _picked_sums, samples=_picked)
def picked_as_lookup(match: Match, x: jax.Array, indices: jax.Array) -> jax.Array:
    """A lookup of one element each; 0 for an index that is out of range, as of the sum."""
    axis = int(match.params("sum")["axes"][0])
    found = jnp.take_along_axis(x, _counted(indices, x.shape[axis]), axis, mode="fill", fill_value=0)
    return jnp.squeeze(found, axis)


def _picked_by_product(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    v, a, b = (int(n) for n in rng.integers(2, 6, 3))
    return (lambda x, i, j: (jnp.sum(jnp.sin(x) * jax.nn.one_hot(i - 1, v, dtype=x.dtype), -1),
                             jnp.sum(jax.nn.one_hot(j, v, dtype=x.dtype)[None, None] * x, -1))), \
        (rng.standard_normal((a, b, v)), rng.integers(v, size=(a, b)), rng.integers(v))


rewrite("picked_product_as_lookup", "sum(one_hot(i)*x) -> x[i]", _picked_products, samples=_picked_by_product,
        assumes="x is finite: its other elements are not multiplied by 0")(picked_as_lookup)


def _element_lookups(graph: Graph) -> Iterator[Match]:
    """Lookups of one element along one dimension for every place along all others."""
    for n, op in enumerate(graph.ops):
        if op.primitive == "gather" and is_inexact(type_of(graph, op.operands[0]).dtype) and \
                _is_along(op, type_of(graph, op.operands[0]).shape, type_of(graph, op.operands[1]).shape):
            yield Match(graph, {"lookup": n}, {"x": op.operands[0], "indices": op.operands[1]}, {}, op.results)


def _is_along(op: Op, shape: tuple[int, ...], indices: tuple[int, ...]) -> bool:
    """Whether one element is looked up along a dimension for every place along all others."""
    d = op.params["dimension_numbers"]
    if len(d.start_index_map) != 1 or d.offset_dims or tuple(d.collapsed_slice_dims) != tuple(d.start_index_map):
        return False
    (axis,) = d.start_index_map
    others = tuple(k for k in range(len(shape)) if k != axis)
    batch = tuple(d.start_indices_batching_dims)
    whole = tuple(d.operand_batching_dims) == others and batch == tuple(range(len(others)))
    return whole and set(indices[len(others):]) <= {1} and len(shape) > 1


def _along(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    v, a, b = (int(n) for n in rng.integers(2, 6, 3))
    return (lambda x, i: jnp.sin(jnp.take_along_axis(x, i[..., None], -1)[..., 0])), \
        (rng.standard_normal((a, b, v)), rng.integers(v, size=(a, b)))


@rewrite("lookup_as_picked", "x[i] -> sum(where(counter == i, x, 0))", _element_lookups, samples=_along,
         assumes="indices are in range")
def lookup_as_picked(match: Match, x: jax.Array, indices: jax.Array) -> jax.Array:
    """A sum that stays local where what is looked up in is sharded along that dimension."""
    (axis,) = match.params("lookup")["dimension_numbers"].start_index_map
    wanted = jnp.reshape(indices, tuple(1 if d == axis else n for d, n in enumerate(x.shape)))
    picked = jnp.where(_chosen(wanted, x.shape, axis), x, jnp.zeros((), x.dtype))
    return jnp.reshape(jax.lax.reduce_sum(picked, (axis,)), match.result("lookup").shape)


def _of_indices(match: Match) -> bool:
    return match.numbers["zero"] == 0 and match.numbers["length"] > 0 and match.type("i").dtype.startswith("int")


def _wrapped(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    v, a = (int(n) for n in rng.integers(2, 6, 2))
    return (lambda t, i: t[i]), (rng.standard_normal((v, 3)), rng.integers(v, size=(a,)))


@rewrite("unwrap_indices", "where(i < 0, i + n, i) -> i",
         Call("select_n", (Call("lt", (Var("i"), Number("zero")), "below"), Var("i"),
                           Call("add", (Var("i"), Number("length")), "wrapped")), "index"),
         where=_of_indices, samples=_wrapped, rounding=False, assumes="no index is negative")
def unwrap_indices(match: Match, i: jax.Array) -> jax.Array:
    """Indices as they are."""
    return i
