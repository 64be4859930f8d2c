"""Places are replaced wherever what they read was made."""

import jax
import jax.numpy as jnp

from planner.core.graph import Role
from planner.rewrites import RULES
from planner.rewriting.sites import sites
from planner.rewriting.splice import replaced
from planner.trace.jaxpr import trace_graph


def test_an_operand_may_be_made_after_the_first_operator_that_is_replaced() -> None:
    def fn(x: jax.Array, w: jax.Array) -> jax.Array:
        return x @ w[:2] + x @ w[2:]  # the second slice comes after the first product

    args = [jax.ShapeDtypeStruct((3, 2), jnp.float32), jax.ShapeDtypeStruct((4, 5), jnp.float32)]
    graph = trace_graph(fn, args, [Role.BATCH] * 2)
    site, = sites(graph, RULES["fuse_matmuls"])
    after = replaced(graph, RULES["fuse_matmuls"], site.matches)
    after.check()
    assert sum(op.primitive == "dot_general" for op in after.ops) == 1
