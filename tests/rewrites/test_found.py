"""Where the rules that the generator found apply, and what is left of the work."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from planner.core.graph import Graph, Role
from planner.rewrites import RULES
from planner.rewriting.sites import sites
from planner.rewriting.splice import replaced
from planner.trace.jaxpr import trace_graph


def traced(fn: Callable[..., Any], *shapes: tuple[int, ...]) -> Graph:
    return trace_graph(fn, [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes], [Role.BATCH] * len(shapes))


def rewritten(graph: Graph, *names: str) -> Graph:
    for name in names:
        for site in sites(graph, RULES[name]):
            graph = replaced(graph, RULES[name], site.matches)
    graph.check()
    return graph


def made(graph: Graph, primitive: str) -> list[tuple[int, ...]]:
    """Shapes of what operators of a primitive make."""
    return [graph.values[op.results[0]].shape for op in graph.ops if op.primitive == primitive]


def test_only_the_last_position_meets_the_vocabulary() -> None:
    def last(h: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.tanh(jnp.exp(h) @ w)[:, -1]

    graph = traced(last, (2, 7, 4), (4, 9))
    after = rewritten(graph, "cut_before_elementwise", "cut_before_product", "cut_before_elementwise")
    assert made(after, "dot_general") == made(after, "tanh") == [(2, 1, 9)]
    assert made(after, "exp") == [(2, 1, 4)]


def test_what_is_read_whole_is_not_cut() -> None:
    both = traced(lambda h, w: (lambda y: (jnp.sin(y), y[:, -1]))(h @ w), (2, 7, 4), (4, 9))
    assert not sites(both, RULES["cut_before_product"])
    whole = traced(lambda h, w: jnp.split(h @ w, 3, -1), (2, 7, 4), (4, 9))
    assert not sites(whole, RULES["cut_before_product"]), "all parts are read: nothing is saved"


def test_a_bias_does_not_keep_a_fused_projection_together() -> None:
    graph = traced(lambda h, w, b: jnp.split(h @ w + b, 3, -1), (2, 7, 4), (4, 9), (9,))
    after = rewritten(graph, "cut_before_elementwise", "split_matmul")
    assert made(after, "dot_general") == made(after, "add") == [(2, 7, 3)] * 3


def test_products_written_out_and_summed_become_a_product() -> None:
    graph = traced(lambda x, w: jnp.sum(x[:, :, None] * w[None], 1), (6, 5), (5, 3))
    assert made(graph, "mul") == [(6, 5, 3)]
    after = rewritten(graph, "weighted_sum_as_product")
    assert (made(after, "mul"), made(after, "dot_general")) == ([], [(6, 3)])
    inner = traced(lambda x, y: jnp.sum(x * y, 1), (6, 5), (6, 5))
    assert not sites(inner, RULES["weighted_sum_as_product"]), "no single product is used twice"


def test_a_product_with_what_is_repeated_becomes_a_sum() -> None:
    graph = traced(lambda x, v: x @ jnp.broadcast_to(v, (5, 3)), (6, 5), (3,))
    after = rewritten(graph, "product_with_repeated")
    assert made(after, "reduce_sum") == [(6,)]
    assert made(after, "dot_general") == [(6, 3)], "an outer product"


def test_one_activation_for_parts_of_a_projection_and_back() -> None:
    graph = traced(lambda x, y: jnp.concatenate([jnp.tanh(x), jnp.tanh(y)], 1), (2, 3), (2, 4))
    once = rewritten(graph, "join_before_elementwise")
    assert made(once, "tanh") == [(2, 7)]
    assert made(rewritten(once, "join_after_elementwise"), "tanh") == [(2, 3), (2, 4)]
    assert not sites(traced(lambda x, y: jnp.concatenate([jnp.tanh(x), jnp.sin(y)], 1), (2, 3), (2, 4)),
                     RULES["join_before_elementwise"])
