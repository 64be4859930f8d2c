"""Equal products that have nothing to do with each other, as one batched product, and apart; batches that are none.

One batched product fills a device better than several small ones, and its batch can be sharded: experts, branches.
Source: operator-parallelism of Unity (OSDI 2022, section 2) and the batched products of `jax.vmap`.
"""

from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph, Literal
from planner.rewrites.broadcasts import repeated
from planner.rewrites.einsums import dot, free_dims, numbers, product
from planner.rewrites.pattern import Match, is_alone, maker
from planner.rewrites.table import rewrite
from planner.trace.local_copies import cheap_of_parameters


def depths(graph: Graph) -> list[int]:
    """For each operator how many operators its longest way from an input has, parameters' casts left out."""
    cheap = set(cheap_of_parameters(graph).values())
    found: list[int] = []
    for n, op in enumerate(graph.ops):
        before = [found[graph.producers[v]] for v in op.inputs if v in graph.producers]
        found.append(0 if n in cheap else 1 + max(before, default=0))
    return found


def _equal_products(graph: Graph) -> Iterator[Match]:
    """Products of one kind, at one depth, of which no two share an operand: none depends on another."""
    depth, groups = depths(graph), dict[Hashable, list[int]]()
    for n, op in enumerate(graph.ops):
        if op.primitive == "dot_general" and not any(isinstance(o, Literal) for o in op.operands):
            groups.setdefault((graph.kinds[n], depth[n]), []).append(n)
    for ops in groups.values():
        chosen = [n for k, n in enumerate(ops) if not any(
            set(graph.ops[n].inputs) & set(graph.ops[m].inputs) for m in ops[:k])]
        if len(chosen) > 1:
            operands = {f"{k}.{side}": o for k, n in enumerate(chosen) for side, o in enumerate(graph.ops[n].operands)}
            yield Match(graph, {str(k): n for k, n in enumerate(chosen)}, operands, {},
                        tuple(graph.ops[n].results[0] for n in chosen))


def _experts(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    e, b, k, n = (int(n) for n in rng.integers(2, 5, 4))
    return (lambda x, w: sum(jnp.tanh(x[i] @ w[i]) for i in range(e))), \
        (rng.standard_normal((e, b, 2, k)), rng.standard_normal((e, k, n)))


@rewrite("batch_products", "x·w, y·v, ... of equal shapes -> one batched product", _equal_products, samples=_experts)
def batch_products(match: Match, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """All at once."""
    op = match.op("0")
    contracted, batch = ([[d + 1 for d in of] for of in pair] for pair in numbers(op))
    out = product(op.params, jnp.stack(arrays[::2]), jnp.stack(arrays[1::2]), contracted,
                  [[0, *of] for of in batch])
    return tuple(jax.lax.index_in_dim(out, k, 0, keepdims=False) for k in range(out.shape[0]))


def _stacked_products(graph: Graph) -> Iterator[Match]:
    """Products of which one operand is put together along a batch dimension."""
    for n, op in enumerate(graph.ops):
        for side in (0, 1) if op.primitive == "dot_general" else ():
            for primitive, name in (("stack", "axis"), ("concatenate", "dimension")):
                m = maker(graph, op.operands[side], primitive)
                if m is not None and is_alone(graph, m) and graph.ops[m].params[name] in numbers(op)[1][side]:
                    parts = {str(k): o for k, o in enumerate(graph.ops[m].operands)}
                    yield Match(graph, {"product": n, "stack": m}, {"other": op.operands[1 - side], **parts},
                                {"side": side}, op.results)


def _stacked(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    e, b, k, n = (int(n) for n in rng.integers(2, 5, 4))
    return (lambda x, w: (jnp.einsum("ebk,ekn->ebn", jnp.stack([jnp.sin(x) * (i + 1) for i in range(e)]), w),
                          jnp.einsum("ebk,eck->ebc", jnp.concatenate([w[1:], w[:1]]), jnp.cos(w)))), \
        (rng.standard_normal((b, k)), rng.standard_normal((e, k, n)))


@rewrite("unbatch_product", "a batched product of [x, y, ...] -> x·w, y·v, ...", _stacked_products, samples=_stacked)
def unbatch_product(match: Match, other: jax.Array, *parts: jax.Array) -> jax.Array:
    """One after the other, as soon as there is what each reads."""
    op, side, stack = match.op("product"), int(match.numbers["side"]), match.op("stack")
    along = stack.params["axis" if stack.primitive == "stack" else "dimension"]
    parts = tuple(jnp.expand_dims(x, along) for x in parts) if stack.primitive == "stack" else parts
    place = list(numbers(op)[1][side]).index(along)
    theirs = numbers(op)[1][1 - side][place]
    results: list[jax.Array] = []
    start = 0
    for part in parts:
        end = start + part.shape[along]
        beside = jax.lax.slice_in_dim(other, start, end, axis=theirs)
        results.append(dot(op.params, *((part, beside) if side == 0 else (beside, part))))
        start = end
    return jnp.concatenate(results, place)


def _repeated_operands(graph: Graph) -> Iterator[Match]:
    """Batched products of which one operand was repeated along a batch dimension."""
    for n, op in enumerate(graph.ops):
        for side in (0, 1) if op.primitive == "dot_general" else ():
            m = maker(graph, op.operands[side], "broadcast_in_dim")
            if m is None or not is_alone(graph, m) or not graph.ops[m].inputs:
                continue
            if set(numbers(op)[1][side]) & repeated(graph, m):
                yield Match(graph, {"product": n, "repeat": m},
                            {"x": graph.ops[m].operands[0], "other": op.operands[1 - side]}, {"side": side}, op.results)
                break


def _repeated(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    e, b, k, n = (int(n) for n in rng.integers(2, 5, 4))
    return (lambda x, w: (jnp.einsum("ebk,ekn->enb", x, jnp.broadcast_to(w, (e, k, n))),
                          jnp.einsum("kne,eb->ebkn", jnp.broadcast_to(w[..., None], (k, n, e)), x[:, :, 0]))), \
        (rng.standard_normal((e, b, k)), rng.standard_normal((k, n)))


@rewrite("unrepeat_operand", "a batched product with the same matrix for all -> one product of all rows",
         _repeated_operands, samples=_repeated)
def unrepeat_operand(match: Match, x: jax.Array, other: jax.Array) -> jax.Array:
    """What was a batch dimension is rows of the other operand."""
    op, side, m = match.op("product"), int(match.numbers["side"]), match.ops["repeat"]
    contracted, batch = (list(map(list, pair)) for pair in numbers(op))
    dims = [int(d) for d in match.params("repeat")["broadcast_dimensions"]]
    gone = repeated(match.graph, m) & set(batch[side])
    rank = len(match.result("repeat").shape)
    rest = [d for d in range(rank) if d not in gone]
    shape = tuple(match.result("repeat").shape[d] for d in rest)
    own = [k for k, d in enumerate(dims) if d in rest]
    array = jax.lax.broadcast_in_dim(jnp.squeeze(x, tuple(k for k in range(x.ndim) if k not in own)), shape,
                                     [rest.index(dims[k]) for k in own])
    free = [free_dims(op, k, rank if k == side else other.ndim) for k in (0, 1)]
    # Letters: pairs of batch dimensions, then what is free on either side.
    result = [("batch", p) for p in range(len(batch[0]))] + [(k, d) for k in (0, 1) for d in free[k]]
    kept = [p for p in range(len(batch[0])) if batch[side][p] not in gone]
    rows = {batch[1 - side][p]: ("batch", p) for p in range(len(batch[0])) if p not in kept}
    new_batch = [[of[p] for p in kept] for of in batch]
    new_batch[side], contracted[side] = ([rest.index(d) for d in of] for of in (new_batch[side], contracted[side]))
    pair = (array, other) if side == 0 else (other, array)
    out = product(op.params, *pair, contracted, new_batch)
    mine = [(side, d) for d in rest if d in free[side]]
    theirs = [rows.get(d, (1 - side, d)) for d in range(other.ndim) if d in free[1 - side] or d in rows]
    made = [("batch", p) for p in kept] + (mine + theirs if side == 0 else theirs + mine)
    return jnp.transpose(out, [made.index(x) for x in result])
