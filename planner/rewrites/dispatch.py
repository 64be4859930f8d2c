"""Dispatch to experts by a product with a mask, as a lookup.

`einsum("gsec,gsd->egcd", mask, tokens)` multiplies and adds all tokens for every place of every expert, of which one is
not zero: a lookup reads that one. Source: the grouped lookups of MegaBlocks (Gale et al. 2022) against GShard's einsum
(Lepikhin et al. 2020).
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph
from planner.rewrites.einsums import free_dims, numbers
from planner.rewrites.lookups import one_hot
from planner.rewrites.pattern import Match, is_alone, maker, type_of
from planner.rewrites.table import rewrite


def _masked_products(graph: Graph) -> Iterator[Match]:
    """Products, contracted along one dimension, with a mask that has dimensions of its own."""
    for n, op in enumerate(graph.ops):
        for side in (0, 1) if op.primitive == "dot_general" else ():
            cast = maker(graph, op.operands[side], "convert_element_type")
            contracted, _ = numbers(op)
            if cast is None or len(contracted[0]) != 1 or not is_alone(graph, cast):
                continue
            mask = graph.ops[cast].operands[0]
            typed = type_of(graph, mask)
            if typed.dtype == "bool" and free_dims(op, side, len(typed.shape)) and \
                    one_hot(graph, mask, contracted[side][0]) is None:
                yield Match(graph, {"product": n, "cast": cast}, {"mask": mask, "x": op.operands[1 - side]},
                            {"side": side}, op.results)


def _dispatched(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    g, s, e, c, d = (int(n) for n in rng.integers(2, 5, 5))
    sent = np.zeros((g, s, e, c))
    for group in range(g):
        places = rng.permutation(e * c)[:s]
        for token, place in enumerate(places):
            sent[group, token, place // c, place % c] = rng.uniform(0.1, 1)
    return (lambda w, x: (jnp.einsum("gsec,gsd->egcd", (w > 0).astype(x.dtype), x),
                          jnp.einsum("gsd,gsec->gdec", jnp.sin(x), (w > 0.2).astype(x.dtype)))), \
        (sent, rng.standard_normal((g, s, d)))


@rewrite("dispatch_as_lookup", "mask·x -> the row of x that each place of the mask names", _masked_products,
         samples=_dispatched, assumes="a place of the mask is true for one row at most, and x is finite")
def dispatch_as_lookup(match: Match, mask: jax.Array, x: jax.Array) -> jax.Array:
    """Which row, by `argmax`; zeros where none is sent."""
    op, side = match.op("product"), int(match.numbers["side"])
    contracted, batch = numbers(op)
    ranks = {side: mask.ndim, 1 - side: x.ndim}
    free = {k: free_dims(op, k, rank) for k, rank in ranks.items()}
    places = jnp.transpose(mask, (*batch[side], *free[side], *contracted[side]))
    rows = jnp.transpose(x, (*batch[1 - side], *contracted[1 - side], *free[1 - side]))
    shape, count = places.shape[:-1], len(batch[0])
    flat = jnp.reshape(places, (math.prod(shape[:count]), -1, places.shape[-1]))
    table = jnp.reshape(rows, (flat.shape[0], rows.shape[count], -1))
    which, any_of = jnp.argmax(flat, -1), jnp.any(flat, -1)
    found = jax.vmap(lambda t, i: t.at[i.astype(jnp.uint32)].get(mode="promise_in_bounds"))(table, which)
    found = jnp.where(any_of[..., None], found, jnp.zeros((), x.dtype)).astype(match.result("product").dtype)
    found = jnp.reshape(found, (*shape, *rows.shape[count + 1:]))
    own, rest = list(range(count, len(shape))), list(range(len(shape), found.ndim))
    order = [*range(count), *(own + rest if side == 0 else rest + own)]
    return jnp.transpose(found, order)
