"""Where rules do not apply: a place that a side condition refuses, or that once was rewritten wrongly."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from planner.core.graph import Graph, Role
from planner.rewrites import RULES
from planner.rewriting.sites import sites
from planner.trace.jaxpr import trace_graph

F32, BF16, INT = np.float32, jnp.bfloat16, np.int32


def of(*shape: int, dtype: Any = F32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def traced(fn: Callable[..., Any], *args: Any) -> Graph:
    return trace_graph(fn, args, [Role.BATCH] * len(args), keep_calls=True)


def wide(x: jax.Array, w: jax.Array) -> jax.Array:
    """A product of 16 bits that is made in 32."""
    return jnp.matmul(x, w, preferred_element_type=jnp.float32)


def twice(fn: Callable[[jax.Array], tuple[jax.Array, jax.Array]]) -> Callable[..., Any]:
    """A function of what something made, which is an output as well."""
    return lambda *args: fn(args[0] @ args[1])


def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """As users write it."""
    return jnp.einsum("bhst,bthd->bshd", jax.nn.softmax(jnp.einsum("bshd,bthd->bhst", q, k) * 0.5, -1), v)


def conv(x: jax.Array, kernel: jax.Array, *, padding: Any = "SAME", apart: int = 1) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, lhs_dilation=(apart, apart),
                                        dimension_numbers=("NHWC", "HWIO", "NHWC"))


ROWS, COLUMNS = of(2, 3, dtype=BF16), of(3, 4, dtype=BF16)

IMAGES, PIXEL, KERNEL = of(2, 4, 4, 3), of(1, 1, 3, 5), of(3, 3, 3, 5)

REFUSED: dict[str, tuple[str, Callable[..., Any], tuple[Any, ...]]] = {
    "integers are cut off: product": ("scale_after_product", lambda i, w: jax.lax.div(i, 5) @ w,
                                      (of(3, 4, dtype=INT), of(4, 2, dtype=INT))),
    "integers are cut off: sum": ("scale_after_reduction", lambda i: jnp.sum(jax.lax.div(i, 5), 0),
                                  (of(3, 4, dtype=INT),)),
    "integers are cut off: scaled sum": ("scale_before_reduction", lambda i: jax.lax.div(jnp.sum(i, 0), 5),
                                         (of(3, 4, dtype=INT),)),
    "integers are cut off: mean": ("mean_before_product", lambda i, w: jax.lax.div(jnp.sum(i @ w, 0), 5),
                                   (of(3, 4, dtype=INT), of(4, 2, dtype=INT))),
    "integers are cut off: twice": ("merge_scales", lambda i: jax.lax.div(jax.lax.div(i, 2), 3), (of(4, dtype=INT),)),
    "wide: inputs": ("add_inputs", lambda x, y, w: wide(x, w) + wide(y, w), (ROWS, ROWS, COLUMNS)),
    "wide: weights": ("add_weights", lambda x, w, v: wide(x, w) + wide(x, v), (ROWS, COLUMNS, COLUMNS)),
    "wide: scale": ("scale_before_product", lambda x, w: wide(x, w) * 0.3, (ROWS, COLUMNS)),
    "wide: sum": ("sum_before_product", lambda x, w: jnp.sum(wide(x, w), 0), (ROWS, COLUMNS)),
    "wide: mean": ("mean_before_product", lambda x, w: jnp.mean(wide(x, w), 0), (ROWS, COLUMNS)),
    "wide: repeated": ("product_with_repeated", lambda x, v: wide(x, jnp.broadcast_to(v, (3, 4))), (
        ROWS, of(4, dtype=BF16))),
    "wide: kernel": ("scale_into_kernel", lambda x, k: jax.lax.conv(
        x, k, (1, 1), "SAME", preferred_element_type=jnp.float32) * 0.3, (of(2, 3, 4, 4, dtype=BF16),
                                                                         of(5, 3, 3, 3, dtype=BF16))),
    "wide: norm": ("fold_norm_into_kernel", lambda x, k, m: (conv(x, k).astype(F32) - m) * 0.3, (
        of(2, 4, 4, 3, dtype=BF16), of(3, 3, 3, 5, dtype=BF16), of(5))),
    "a half": ("split_contraction", lambda x, w: x[:, :8] @ w[:8], (of(2, 16), of(16, 2))),
    "short": ("split_contraction", lambda x, w: x @ w, (of(8, 8), of(8, 8))),
    "odd": ("split_contraction", lambda x, w: x @ w, (of(2, 15), of(15, 2))),
    "columns read twice": ("split_matmul", lambda x, w: (lambda y: (y[:, 1:], y[:, :-1]))(x @ w), (of(2, 3), of(3, 8))),
    "a batch": ("split_matmul", lambda x, w: jnp.split(jnp.einsum("bmk,bkn->bmn", x, w), 2), (
        of(4, 2, 3), of(4, 3, 5))),
    "channels read twice": ("split_conv", lambda x, k: (lambda y: (y[..., 1:], y[..., :-1]))(conv(x, k)), (
        IMAGES, KERNEL)),
    "rows of images": ("split_conv", lambda x, k: jnp.split(conv(x, k), 2, 1), (IMAGES, KERNEL)),
    "a window": ("conv_as_product", conv, (IMAGES, KERNEL)),
    "spread pixels": ("conv_as_product", lambda x, k: conv(x, k, padding=((0, 0),) * 2, apart=2), (
        IMAGES, PIXEL)),
    "padding": ("conv_as_product", lambda x, k: conv(x, k, padding=((1, 1), (0, 0))), (IMAGES, PIXEL)),
    "no images": ("product_as_conv", lambda x, w: jnp.sin(x @ w), (of(2, 4, 4, 3), of(3, 5))),
    "another padding": ("join_conv_inputs", lambda x, y, k, m: conv(x, k) + conv(y, m, padding="VALID"), (
        IMAGES, of(2, 6, 6, 3), KERNEL, KERNEL)),
    "one kernel in a product": ("add_kernels", lambda x, k, m: conv(x, k) + conv(x, m), (
        IMAGES, KERNEL, PIXEL)),
    "a zero's sign": ("drop_identity", lambda x: x + 0.0, (of(3),)),
    "no number": ("drop_identity", lambda x, y: x * y, (of(3), of(3))),
    "digits lost": ("merge_casts", lambda x: x.astype(BF16).astype(F32), (of(3),)),
    "another kind": ("merge_casts", lambda i: i.astype(F32).astype(BF16), (of(3, dtype=INT),)),
    "column by column: merged": ("merge_reshapes", lambda x: jax.lax.reshape(
        jax.lax.reshape(x, (6,), dimensions=(1, 0)), (3, 2)), (of(2, 3),)),
    "column by column: before": ("reshape_before_elementwise", lambda x: jnp.ravel(jnp.sin(x), order="F"), (of(2, 3),)),
    "column by column: after": ("reshape_after_elementwise", lambda x: jnp.sin(jnp.ravel(x, order="F")), (of(2, 3),)),
    "column by column: reduced": ("reshape_after_reduction", lambda x: jnp.sum(jax.lax.reshape(
        x, (6, 4), dimensions=(1, 0, 2)), 1), (of(2, 3, 4),)),
    "column by column: rows": ("reshape_after_product", lambda x, w: jax.lax.reshape(
        x, (6, 4), dimensions=(1, 0, 2)) @ w, (of(2, 3, 4), of(4, 5))),
    "column by column: columns": ("reshape_before_product", lambda x, w: jax.lax.reshape(
        x @ w, (2, 12), dimensions=(0, 2, 1)), (of(2, 3, 4), of(4, 4))),
    "ties": ("merge_reductions", lambda x: jnp.max(jnp.max(x, 0), 0), (of(2, 3),)),
    "ties split": ("split_reduction", jnp.max, (of(2, 3),)),
    "two kinds": ("merge_reductions", lambda x: jnp.sum(jnp.prod(x, 0), 0), (of(2, 3),)),
    "nothing to split": ("split_reduction", jnp.sum, (of(1, 3),)),
    "a read scale": ("scale_after_reduction", lambda x: (lambda y: (y, jnp.sum(y, 0)))(x * 2.0), (of(2, 3),)),
    "a scale along the sum": ("scale_after_reduction", lambda x, s: jnp.sum(x * s, 1), (of(2, 3), of(1, 3))),
    "a scale along the contraction": ("scale_after_product", lambda x, s, w: (x * s) @ w, (
        of(2, 3), of(1, 3), of(3, 4))),
    "a bias of rows": ("bias_after_product", lambda x, b, w: (x + b) @ w, (of(2, 3), of(2, 1), of(3, 4))),
    "a bias without rows": ("bias_after_product", lambda x, b, w: jnp.einsum("bk,bkn->bn", x + b, w), (
        of(2, 3), of(1, 3), of(2, 3, 4))),
    "another factor": ("factor_product", lambda x, y, z, w: x * y + z * w, (of(3), of(3), of(3), of(3))),
    "two sums": ("distribute_product", lambda x, y, z: (x + y) * z, (of(3), of(3), of(3))),
    "a read sum": ("distribute_product", lambda x, y: (lambda z: (z, z * y))(x + 1.0), (of(3), of(3))),
    "other rows": ("join_contractions", lambda x, w, y, v: x @ w + jnp.einsum("km,kn->mn", y, v), (
        of(2, 3), of(3, 4), of(3, 2), of(3, 4))),
    "one input": ("join_contractions", lambda x, w, v: x @ w + x @ v, (of(2, 3), of(3, 4), of(3, 4))),
    "a read chain": ("reassociate_right", twice(lambda y: (y, y @ y.T)), (of(2, 3), of(3, 4))),
    "no chain": ("reassociate_right", lambda a, b, c: jnp.einsum("mn,mp->np", a @ b, c), (
        of(2, 3), of(3, 4), of(2, 5))),
    "a read broadcast": ("merge_broadcasts", lambda x: (lambda y: (y, jnp.broadcast_to(y, (4, 2, 3))))(
        jnp.broadcast_to(x, (2, 3))), (of(3),)),
    "what is not repeated": ("reduce_before_broadcast", lambda x: jnp.sum(jnp.broadcast_to(x, (2, 3)), 1), (of(3),)),
    "more than a dtype counts": ("reduce_before_broadcast", lambda x: jax.lax.reduce_sum(jnp.broadcast_to(
        x, (70_000, 3)), (0,)), (of(3, dtype=np.float16),)),
    "other terms": ("sum_each_term", lambda x, y: jnp.sum(x + y, 0), (of(2, 3), of(1, 3))),
    "other axes": ("sum_terms_at_once", lambda x, y: jnp.sum(x, 0) + jnp.sum(y, 1), (of(3, 3), of(3, 3))),
    "a sum along another dimension": ("sum_of_join", lambda x, y: jnp.sum(jnp.concatenate([x, y], 0), 1), (
        of(2, 3), of(2, 3))),
    "parts of two lengths": ("sum_of_join", lambda x, y: jnp.sum(jnp.concatenate([x, y], 0), 0), (of(2, 3), of(4, 3))),
    "batches summed": ("sum_before_product", lambda x, w: jnp.sum(jnp.einsum("bmk,bkn->bmn", x, w), 0), (
        of(2, 3, 4), of(2, 4, 5))),
    "part of a group": ("reshape_after_reduction", lambda x: jnp.sum(jnp.reshape(x, (2, 3, 4)), 0), (of(6, 4),)),
    "rows and columns": ("reshape_before_product", lambda x, w: jnp.reshape(x @ w, (4, 3)), (of(2, 3), of(3, 6))),
    "operands in order": ("swap_operands", lambda x, w: jnp.transpose(jnp.einsum("mk,khd->mhd", x, w), (0, 2, 1)), (
        of(2, 3), of(3, 4, 5))),
    "rows beside columns": ("transpose_before_product", lambda x, w: (x @ w).T, (of(2, 3), of(3, 4))),
    "a vector": ("transpose_before_broadcast", lambda x: jnp.transpose(jnp.broadcast_to(x, (2, 3))), (of(3),)),
    "used once": ("weighted_sum_as_product", lambda x, y: jnp.sum(x * y, 1), (of(2, 3), of(2, 3))),
    "integers": ("weighted_sum_as_product", lambda x, y: jnp.sum(x[:, :, None] * y, 1), (
        of(2, 3, dtype=INT), of(2, 3, 4, dtype=INT))),
    "another exponential": ("merge_exponentials", lambda x: (lambda y: (y, y * jnp.exp(-x)))(jnp.exp(x)), (of(3),)),
    "floating": ("unwrap_indices", lambda x: jnp.where(x < 0, x + 3, x), (of(3),)),
    "backwards": ("unwrap_indices", lambda i: jnp.where(i < 0, i + -3, i), (of(3, dtype=INT),)),
    "to fewer bits than operands have": ("cast_before_reduction", lambda x, w: (x @ w).astype(BF16), (
        of(2, 3), of(3, 4))),
    "to no more bits": ("cast_after_reduction", lambda x, w: (x @ w).astype(INT), (of(2, 3), of(3, 4))),
    "counted anew": ("product_as_lookup", lambda t, i: jax.nn.one_hot(i, 300) @ t, (of(300, 2), of(2, dtype=np.uint8))),
    "products of one operand": ("batch_products", lambda x, w, v: (x @ w, x @ v), (of(2, 3), of(3, 4), of(3, 4))),
    "one product after the other": ("batch_products", lambda x, w, v: (x @ w) @ v, (of(2, 4), of(4, 4), of(4, 4))),
    "stacked rows": ("unbatch_product", lambda x, y, w: jnp.concatenate([x, y]) @ w, (of(2, 3), of(2, 3), of(3, 4))),
    "rows repeated": ("unrepeat_operand", lambda x, w: jnp.broadcast_to(x, (2, 3)) @ w, (of(3), of(3, 4))),
    "batches put together": ("split_concatenated", lambda x, y, w: jnp.einsum(
        "bk,bkn->bn", jnp.concatenate([x, y]), w), (of(2, 3), of(2, 3), of(4, 3, 5))),
    "a read concatenation": ("split_concatenated", lambda x, y, w: (lambda z: (z, z @ w))(jnp.concatenate([x, y])), (
        of(2, 3), of(2, 3), of(3, 4))),
    "a term that is repeated": ("distribute_over_sum", lambda x, b, w: (x + b) @ w, (of(2, 3), of(1, 3), of(3, 4))),
    "two scales": ("scale_after_sum", lambda x, y: x * 2.0 + y * 3.0, (of(3), of(3))),
    "scales along two dimensions": ("merge_scales", lambda x, s, t: x * s * t, (of(2, 3), of(1, 3), of(2, 1))),
    "a number added": ("scale_before_bias", lambda x: (x + 1.0) * 2.0, (of(3),)),
    "a scale along both sides": ("scale_other_operand", lambda x, s, w: (x * s) @ w, (of(2, 3), of(2, 1), of(3, 4))),
    "a scale along space": ("input_scale_into_kernel", lambda x, s, k: conv(x * s, k), (
        IMAGES, of(1, 4, 1, 1), KERNEL)),
    "a scale of what goes in": ("scale_out_of_kernel", lambda x, k, s: conv(x, k * s), (
        IMAGES, KERNEL, of(1, 1, 3, 1))),
    "images side by side": ("split_conv_input", lambda x, y, k: conv(jnp.concatenate([x, y], 1), k), (
        IMAGES, IMAGES, KERNEL)),
    "columns as long": ("sum_after_product", lambda x, w: jnp.sum(x, 0) @ w, (of(2, 3, 4), of(4, 4))),
    "one permutation each": ("transpose_after_elementwise", lambda x, y: x.T * y, (of(3, 3), of(3, 3))),
    "two shapes": ("reshape_after_elementwise", lambda x, y: jnp.reshape(x, (6,)) * jnp.reshape(y, (6,)), (
        of(2, 3), of(3, 2))),
    "not all repeated": ("broadcast_after_elementwise", lambda x, y: jnp.broadcast_to(x, (2, 3)) * y, (
        of(3), of(2, 3))),
    "joined across": ("merge_joins", lambda x, y: jnp.concatenate([jnp.concatenate([x, x], 0), y], 1), (
        of(2, 3), of(4, 3))),
    "two numbers": ("join_before_elementwise", lambda x, y: jnp.concatenate([x * 2.0, y * 3.0]), (of(3), of(3))),
    "a product before products": ("add_products_first", lambda x, w: (x @ w + jnp.sin(x) @ w) + jnp.cos(x) @ w, (
        of(2, 3), of(3, 3))),
    "narrower": ("scale_before_cast", lambda x: x.astype(BF16) * 0.3, (of(3),)),
    "wider": ("scale_after_cast", lambda x: (x * 0.3).astype(F32), (of(3, dtype=BF16),)),
    "parts of rows": ("lookup_as_product", lambda t, i: jax.vmap(lambda k: jax.lax.dynamic_slice(
        t, (k, 0), (1, 2)))(i), (of(5, 3), of(2, dtype=INT))),
    "integers looked up": ("lookup_as_product", lambda t, i: t[i], (of(5, 3, dtype=INT), of(2, dtype=INT))),
    "a mask with more than one": ("product_as_lookup", lambda t, i: (jnp.arange(5) <= i[:, None]).astype(F32) @ t, (
        of(5, 3), of(2, dtype=INT))),
    "another filling": ("picked_as_lookup", lambda x, i: jnp.sum(jnp.where(jnp.arange(3) == i[:, None], x, 1.0), 1), (
        of(2, 3), of(2, dtype=INT))),
    "no places": ("dispatch_as_lookup", lambda m, x: jnp.einsum("bk,bkn->bn", (m > 0).astype(F32), x), (
        of(2, 3), of(2, 3, 4))),
    "near": ("recompute_for_reader", lambda x: jnp.tanh(x) + jnp.sin(jnp.tanh(x)), (of(3),)),
    "casts alone": ("recompute_activation", lambda x, w: x.astype(F32) @ w, (of(2, 3, dtype=BF16), of(3, 4))),
    "many arrays": ("recompute_activation", lambda x, y, z, w: (x * y * z) @ w, (
        of(2, 3), of(2, 3), of(2, 3), of(3, 4))),
    "few scores": ("recompute_attention", attention, (of(1, 2, 1, 8),) * 3),
    "weights that are read": ("fuse_attention", lambda q, k: (lambda w: (w, jnp.einsum("bhst,bthd->bshd", w, k)))(
        jax.nn.softmax(jnp.einsum("bshd,bthd->bhst", q, k), -1)), (of(1, 2, 1, 8),) * 2),
    "different values": ("fuse_attention", attention, (of(1, 2, 1, 8), of(1, 2, 1, 8), of(1, 2, 1, 4))),
    "not the same": ("merge_equal", lambda x, y: (jnp.sin(x), jnp.sin(y)), (of(3), of(3))),
    "not zero": ("drop_zero_product", lambda x: x * 2.0, (of(3),)),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_a_rule_is_not_used_where_it_would_be_wrong_or_gain_nothing(case: str) -> None:
    name, fn, args = REFUSED[case]
    assert not sites(traced(fn, *args), RULES[name])
