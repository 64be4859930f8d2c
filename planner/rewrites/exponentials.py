"""Products and quotients of exponentials as one exponential: decays and scores in logarithms.

Source: found by `planner rewrites generate` (`exp(x) * exp(y) = exp(x + y)`, `exp(x) / exp(y) = exp(x - y)`).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.rewrites.pattern import Call, Match, Var
from planner.rewrites.table import rewrite


def _alike(match: Match) -> bool:
    """Whether nothing else reads the exponentials; complex ones have other limits."""
    floating = jnp.issubdtype(jnp.dtype(match.type("x").dtype), jnp.floating)
    return floating and match.is_private("one") and match.is_private("two")


def _exponentials(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    a, b = rng.integers(1, 5, 2)
    return (lambda x, y, z: (jnp.exp(x) * jnp.exp(y), jnp.exp(y) / jnp.exp(z))), \
        tuple(rng.standard_normal(shape) for shape in ((a, b), (a, b), (1, b)))


@rewrite("merge_exponentials", "exp(x)*exp(y) -> exp(x + y), exp(x)/exp(y) -> exp(x - y)",
         Call("mul|div", (Call("exp", (Var("x"),), "one"), Call("exp", (Var("y"),), "two")), "product"), where=_alike,
         samples=_exponentials, assumes="no single exponential overflows or vanishes: their product need not")
def merge_exponentials(match: Match, x: jax.Array, y: jax.Array) -> jax.Array:
    """One exponential for two."""
    return jnp.exp(x + y if match.op("product").primitive == "mul" else x - y)
