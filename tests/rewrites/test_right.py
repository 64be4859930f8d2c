"""Rules where they once were wrong, failed or were missing: dtypes, constants, small integers, their own results."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph, Role
from planner.rewrites import RULES
from planner.rewriting.prove import Case, differences, weights_of
from planner.rewriting.sites import sites
from planner.rewriting.splice import replaced
from planner.trace.jaxpr import trace_graph

RNG = np.random.default_rng(0)
X, W = (RNG.standard_normal(shape).astype(np.float32) for shape in ((4, 6), (6, 4)))
BYTES = RNG.integers(-9, 9, (4, 6)).astype(np.int8)
TABLE = RNG.standard_normal((300, 2)).astype(np.float32)

PLACES: tuple[tuple[str, Callable[..., Any], tuple[Any, ...]], ...] = (
    ("merge_reductions", lambda i: jax.lax.reduce_prod(jax.lax.reduce_prod(i, (0,)), (0,)), (BYTES,)),
    ("merge_reductions", lambda i: jax.lax.reduce_and(jax.lax.reduce_and(i, (0,)), (0,)), (BYTES,)),
    ("reduce_before_broadcast", lambda i: jax.lax.reduce_sum(jnp.broadcast_to(i, (300, 4, 6)), (0,)), (BYTES,)),
    ("cut_before_product", lambda x: (x @ jnp.ones((6, 4), x.dtype))[:, :2], (X,)),
    ("cut_before_reduction", lambda x: jnp.sum(jnp.ones((4, 6), x.dtype), 1)[1:] * x[1:, 0], (X,)),
    ("merge_cuts", lambda x: jnp.ones((4, 6), x.dtype)[1:][:, 2:] * x[1:, 2:], (X,)),
    ("product_as_lookup", lambda t, i: jax.nn.one_hot(i, 200) @ t[:200], (TABLE, np.asarray([3, 250], np.uint8))),
    ("lookup_as_product", lambda t, i: t.at[i].get(mode="promise_in_bounds"), (TABLE, np.asarray([3, 200], np.uint8))),
    ("split_matmul", lambda x, w: tuple(map(jnp.sin, jnp.split(x @ w, 2))), (X, W)),
    ("swap_operands", lambda x, w: jnp.matmul(x, w, precision="highest").T, (X, W)),
    ("reshape_before_elementwise", lambda x: jnp.reshape(jnp.fft.fft(x) * 2j, (6, 4)).real, (X,)),
    ("merge_casts", lambda x: x.astype(jnp.bfloat16).astype(jnp.float32).astype(jnp.bfloat16), (X,)),
)


def traced(fn: Callable[..., Any], *args: Any) -> Graph:
    return trace_graph(fn, args, [Role.BATCH] * len(args), keep_calls=True)


def once(graph: Graph, name: str) -> Graph:
    """The graph with a rule applied at all places of the first class."""
    site, *_ = sites(graph, RULES[name])
    after = replaced(graph, RULES[name], site.matches)
    after.check()
    return after


def test_rules_compute_the_same() -> None:
    graphs = [traced(fn, *args) for _, fn, args in PLACES]
    cases = [Case(graph, (once(graph, name),), args, weights_of(graph, RNG))
             for graph, (name, _, args) in zip(graphs, PLACES, strict=True)]
    for (name, _, _), (off,) in zip(PLACES, differences(cases), strict=True):
        assert off <= 1e-6, name


def test_numbers_of_one_value_but_another_dtype_or_part_are_told_apart() -> None:
    def both(x: jax.Array) -> Any:
        return jnp.reshape(x * 1j, (3, 2)), jnp.reshape(x * 2j, (3, 2))

    found = sites(traced(both, jax.ShapeDtypeStruct((2, 3), jnp.complex64)), RULES["reshape_before_elementwise"])
    assert [len(site.matches) for site in found] == [1, 1]


def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """As users write it."""
    weights = jax.nn.softmax(jnp.einsum("bshd,bthd->bhst", q, k) * 0.5, -1)
    return jnp.einsum("bhst,bthd->bshd", weights, v)


def test_what_a_rule_made_it_does_not_make_again() -> None:
    arrays = [jax.ShapeDtypeStruct((2, 5, 3, 4), jnp.float32)] * 3
    assert not sites(once(traced(attention, *arrays), "fuse_attention"), RULES["fuse_attention"])
    own = traced(lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=True), *arrays)
    assert not sites(own, RULES["fuse_attention"])
    grouped = traced(jax.nn.dot_product_attention, jax.ShapeDtypeStruct((2, 5, 6, 4), jnp.float32), *arrays[1:])
    assert not sites(grouped, RULES["fuse_attention"])
    halves = once(traced(lambda x, w: x @ w, jax.ShapeDtypeStruct((2, 64), jnp.float32),
                         jax.ShapeDtypeStruct((64, 3), jnp.float32)), "split_contraction")
    assert not sites(halves, RULES["split_contraction"])
