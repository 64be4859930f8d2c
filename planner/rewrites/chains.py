"""Products of products, paired otherwise: (a·b)·c as a·(b·c).

A chain costs by its order what its shapes make of it, in arithmetic on one device and in what has to be reduced on
many. Source: the associativity of matrix products in TASO (SOSP 2019, table 2).
"""

from collections.abc import Callable
from string import ascii_letters
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.rewrites.einsums import Letters, einsum, product_letters
from planner.rewrites.pattern import Call, Match, Var
from planner.rewrites.table import rewrite

LEFT = Call("dot_general", (Call("dot_general", (Var("a"), Var("b")), "inner"), Var("c")), "outer")

RIGHT = Call("dot_general", (Var("a"), Call("dot_general", (Var("b"), Var("c")), "inner")), "outer")


def _left_letters(match: Match) -> tuple[Letters, Letters, Letters, Letters]:
    a = tuple(ascii_letters[:len(match.shape("a"))])
    b, ab = product_letters(match.op("inner"), a, len(match.shape("b")), "".join(a))
    c, out = product_letters(match.op("outer"), ab, len(match.shape("c")), "".join((*a, *b)))
    return a, b, c, out


def _right_letters(match: Match) -> tuple[Letters, Letters, Letters, Letters]:
    """The inner product is the right operand: it is lettered first, and its letters are renamed to the outer's."""
    b = tuple(ascii_letters[:len(match.shape("b"))])
    c, bc = product_letters(match.op("inner"), b, len(match.shape("c")), "".join(b))
    a = tuple(ascii_letters[40:40 + len(match.shape("a"))])
    right, out = product_letters(match.op("outer"), a, len(bc), "".join((*a, *b, *c)))
    renamed = dict(zip(right, bc, strict=True))
    return tuple(renamed.get(x, x) for x in a), b, c, tuple(renamed.get(x, x) for x in out)


def _kept(of: Letters, others: Letters) -> Letters:
    return tuple(x for x in dict.fromkeys(of) if x in others)


def _meet(match: Match, one: Letters, other: Letters, rest: Letters) -> bool:
    """Whether a product of two operands sums over something that nothing else has, and both products are of one kind.
    """
    same_kind = match.params("inner")["precision"] == match.params("outer")["precision"]
    summed = [x for x in one if x in other and x not in rest]
    return same_kind and bool(summed) and match.is_private("inner") and match.result("outer").dtype == \
        match.result("inner").dtype


def _chain_left(match: Match) -> bool:
    a, b, c, out = _left_letters(match)
    return _meet(match, b, c, (*a, *out))


def _chain_right(match: Match) -> bool:
    a, b, c, out = _right_letters(match)
    return _meet(match, a, b, (*c, *out))


def _left_chain(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    m, k, n, p = rng.integers(1, 6, 4)
    return (lambda a, b, c: (a @ b) @ c), (rng.standard_normal((2, m, k)), rng.standard_normal((k, n)),
                                           rng.standard_normal((n, p)))


def _right_chain(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    m, k, n, p = rng.integers(1, 6, 4)
    return (lambda a, b, c: jnp.einsum("xmk,kp->xmp", a, b @ c)), \
        (rng.standard_normal((2, m, k)), rng.standard_normal((k, n)), rng.standard_normal((n, p)))


@rewrite("reassociate_right", "(a·b)·c -> a·(b·c)", LEFT, where=_chain_left, samples=_left_chain)
def reassociate_right(match: Match, a: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
    """The last two of a chain first."""
    la, lb, lc, out = _left_letters(match)
    bc = _kept((*lb, *lc), (*la, *out))
    inner = einsum(match.params("inner"), (lb, lc), bc, b, c)
    return einsum(match.params("outer"), (la, bc), out, a, inner)


@rewrite("reassociate_left", "a·(b·c) -> (a·b)·c", RIGHT, where=_chain_right, samples=_right_chain)
def reassociate_left(match: Match, a: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
    """The first two of a chain first."""
    la, lb, lc, out = _right_letters(match)
    ab = _kept((*la, *lb), (*lc, *out))
    inner = einsum(match.params("inner"), (la, lb), ab, a, b)
    return einsum(match.params("outer"), (ab, lc), out, inner, c)
