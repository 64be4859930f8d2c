"""Graphs that are the same have one key, and rules lead where they say."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from planner.core.graph import Role
from planner.rewrites import RULES
from planner.rewriting.generating.reach import implied_by, key_of
from planner.rewriting.generating.sizes import shapes_of
from planner.rewriting.generating.terms import apply, given
from planner.trace.jaxpr import trace_graph


def key(fn: Callable[..., Any]) -> Any:
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((4, 4), (4, 4), (4,))]
    return key_of(trace_graph(fn, args, [Role.BATCH] * 3))


@pytest.mark.parametrize(("one", "other"), [
    (lambda x, y, u: x + y, lambda x, y, u: y + x),
    (lambda x, y, u: jnp.split(x, 2)[1], lambda x, y, u: x[2:]),
    (lambda x, y, u: u @ x.T, lambda x, y, u: jax.lax.dot_general(x.T, u, (((0,), (0,)), ((), ())),
                                                                   preferred_element_type=jnp.float32)),
    (lambda x, y, u: (jnp.sin(x), jnp.cos(y)), lambda x, y, u: (lambda c: (jnp.sin(x), c))(jnp.cos(y)))])
def test_the_same_graph_written_otherwise_has_the_same_key(one: Callable[..., Any], other: Callable[..., Any]) -> None:
    assert key(one) == key(other)


@pytest.mark.parametrize(("one", "other"), [
    (lambda x, y, u: x - y, lambda x, y, u: y - x), (lambda x, y, u: x @ y, lambda x, y, u: y @ x),
    (lambda x, y, u: x[:2], lambda x, y, u: x[2:]), (lambda x, y, u: x.sum(0), lambda x, y, u: x.sum(1)),
    (lambda x, y, u: x * 2.0, lambda x, y, u: x * 3.0), (lambda x, y, u: (x, y), lambda x, y, u: (y, x)),
    (lambda x, y, u: u @ x, lambda x, y, u: x @ u)])
def test_other_graphs_have_other_keys(one: Callable[..., Any], other: Callable[..., Any]) -> None:
    assert key(one) != key(other)


def test_rules_from_both_sides_meet_and_others_do_not() -> None:
    x, y = given("x"), given("y")
    left = apply("transpose", apply("matmul", x, y))
    right = apply("matmul", apply("transpose", y), apply("transpose", x))
    shapes = shapes_of(left, right)
    names = ("transpose_into_product", "swap_operands")
    assert set(implied_by([RULES[n] for n in names], left, right, shapes) or ()) == set(names)
    assert implied_by([RULES["merge_transposes"]], left, right, shapes) is None
    assert implied_by([], left, left, shapes) == ()
