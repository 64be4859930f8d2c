"""At least one real instance of every operator that has a rule: primitive -> functions whose trace contains it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.random import threefry_2x32
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from planner import compat

Instance = tuple[Callable[..., Any], tuple[Any, ...]]


def f32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def i32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def u32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.uint32)


def keys(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jax.random.key(0).dtype)


def _free() -> NamedSharding:
    free = PartitionSpec.UNCONSTRAINED
    return NamedSharding(Mesh(jax.devices()[:2], ("x",)), PartitionSpec(free, free))


def _dot(numbers: Any) -> Callable[..., Any]:
    return partial(lax.dot_general, dimension_numbers=numbers)


def _conv(x: Any, w: Any, **options: Any) -> Any:
    options = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC")} | options
    return lax.conv_general_dilated(x, w, **options)


def _conv_gradient(of: int, x: Any, w: Any, g: Any, **options: Any) -> Any:
    """Of the input (0) or the filter (1) alone."""
    linear = (lambda a: _conv(a, w, **options)) if of == 0 else (lambda b: _conv(x, b, **options))
    return jax.linear_transpose(linear, (x, w)[of])(g)[0]


def _conv_loss(x: Any, w: Any, **options: Any) -> Any:
    return jnp.sum(_conv(x, w, **options) ** 2)


def _pool(x: Any) -> Any:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def _average(x: Any) -> Any:
    return lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 1, 1, 1), "VALID")


def _least(x: Any) -> Any:
    return lax.reduce_window(x, jnp.inf, lax.min, (1, 2, 2, 1), (1, 1, 1, 1), "SAME")


def _custom_pool(x: Any) -> Any:
    return lax.reduce_window(x, 0.0, lambda a, b: a + 2 * b, (1, 2, 2, 1), (1, 1, 1, 1), "VALID")


def _pool_loss(x: Any) -> Any:
    return jnp.sum(_pool(x) ** 2)


def _embed_loss(table: Any, ids: Any) -> Any:
    return jnp.sum(table.at[ids].get(mode="clip") ** 2)


def _lstm(x: Any, h: Any, c: Any, w: Any, u: Any) -> Any:
    def cell(carry: Any, x_t: Any) -> Any:
        h, c = carry
        i, f, g, o = jnp.split(x_t @ w + h @ u, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    return lax.scan(cell, (h, c), x)


def _lstm_loss(*args: Any) -> Any:
    return jnp.sum(_lstm(*args)[1])


def _fori(x: Any, w: Any, n: Any) -> Any:
    return lax.while_loop(lambda s: s[0] < n, lambda s: (s[0] + 1, jnp.tanh(s[1] @ w)), (0, x))


def _cond(p: Any, x: Any, w: Any) -> Any:
    return lax.cond(p, lambda x: jnp.tanh(x @ w), lambda x: x * 2, x)


def _custom(x: Any) -> Any:
    return jax.nn.relu(x)


@jax.custom_vjp
def _scaled(x: Any) -> Any:
    return x * 2


_scaled.defvjp(lambda x: (_scaled(x), None), lambda _, g: (g * 2,))


def _rows(x: Any, ids: Any) -> Any:
    return jnp.take_along_axis(x, ids, axis=1)


def _batched_index(x: Any, ids: Any) -> Any:
    return jax.vmap(lambda row, i: row[i])(x, ids)


def _batched_add(x: Any, ids: Any, u: Any) -> Any:
    return jax.vmap(lambda row, i, v: row.at[i].add(v))(x, ids, u)


def _batched_set(x: Any, ids: Any, u: Any) -> Any:
    return jax.vmap(lambda row, i, v: row.at[i].set(v))(x, ids, u)


def _at(method: str) -> Callable[..., Any]:
    return lambda x, ids, u: getattr(x.at[ids], method)(u)


def _key_of(words: Any) -> Any:
    return jax.random.wrap_key_data(words)


X, Y = f32(4, 8), f32(8, 6)
INTS, WORDS, BOOLS = i32(4, 8), u32(4, 8), jax.ShapeDtypeStruct((4, 8), bool)
COMPLEX = jax.ShapeDtypeStruct((4, 8), jnp.complex64)
TALL = f32(2, 16, 8, 4)
IMAGE, KERNEL = f32(4, 8, 8, 2), f32(3, 3, 2, 4)
LSTM = (f32(6, 4, 8), f32(4, 8), f32(4, 8), f32(8, 32), f32(8, 32))

INSTANCES: dict[str, list[Instance]] = {
    "dot_general": [
        (jnp.matmul, (X, Y)),
        (_dot((((3,), (3,)), ((0, 1), (0, 1)))), (f32(2, 4, 6, 8), f32(2, 4, 10, 8))),
        (_dot((((0, 2), (2, 1)), ((), ()))), (f32(4, 6, 8), f32(2, 8, 4))),
        (_dot((((1,), (0,)), ((2,), (1,)))), (f32(4, 6, 8), f32(6, 8, 2))),
        (_dot((((), ()), ((), ()))), (f32(4), f32(6))),
    ],
    "ragged_dot_general": [(lax.ragged_dot, (f32(8, 4), f32(2, 4, 6), i32(2)))],
    "conv_general_dilated": [
        (_conv, (IMAGE, KERNEL)),
        (partial(_conv, window_strides=(2, 2)), (IMAGE, KERNEL)),
        (jax.grad(_conv_loss), (IMAGE, KERNEL)),
        (jax.grad(_conv_loss, 1), (IMAGE, KERNEL)),
        (partial(_conv, lhs_dilation=(2, 2), padding=((1, 2), (1, 2))), (IMAGE, KERNEL)),
        (partial(_conv, window_strides=(2, 2)), (TALL, f32(7, 7, 4, 6))),
        *[(partial(_conv_gradient, of, window_strides=(s, s)), (TALL, f32(k, k, 4, 6), f32(2, 16 // s, 8 // s, 6)))
          for of in (0, 1) for s, k in ((1, 3), (2, 3), (2, 7))],
        (partial(_conv, rhs_dilation=(2, 2)), (TALL, f32(3, 3, 4, 6))),
        (partial(_conv, window_strides=(4, 4), padding="VALID"), (TALL, f32(4, 4, 4, 6))),
        (partial(_conv, feature_group_count=4), (f32(4, 6, 6, 4), f32(3, 3, 1, 4))),
        (partial(_conv, feature_group_count=2), (f32(4, 6, 6, 4), f32(3, 3, 2, 2))),
        (jax.grad(partial(_conv_loss, feature_group_count=4), 1), (f32(4, 6, 6, 4), f32(3, 3, 1, 4))),
    ],
    "reshape": [
        (lambda x: x.reshape(4, 6, 2, 4), (f32(4, 6, 8),)),
        (lambda x: x.reshape(4, 6, 8), (f32(4, 6, 2, 4),)),
        (lambda x: x.reshape(24, 8), (f32(4, 6, 8),)),
        (lambda x: x.reshape(4, 6, 8), (f32(24, 8),)),
        (lambda x: x.reshape(2, 12, 8), (f32(4, 6, 8),)),
        (lambda x: x.reshape(4, 1, 8), (f32(4, 8),)),
        (lambda x: x.reshape(-1), (f32(4, 8),)),
        (lambda x: x.reshape(4, 6), (f32(6, 4),)),
        (lambda x: x.reshape(6, 4, 2), (f32(4, 6, 2),)),
    ],
    "transpose": [(lambda x: jnp.transpose(x, (2, 0, 1)), (f32(4, 6, 8),))],
    "broadcast_in_dim": [
        (lambda x: jnp.broadcast_to(x[:, None], (4, 6)), (f32(4),)),
        (lambda x: lax.broadcast_in_dim(x, (4, 6, 8), (0, 2)), (f32(4, 1),)),
        (lambda: jnp.zeros((4, 6)), ()),
    ],
    "squeeze": [(lambda x: jnp.squeeze(x, 1), (f32(4, 1, 6),))],
    "iota": [(lambda: lax.broadcasted_iota(jnp.int32, (4, 6), 0), ()), (lambda: jnp.arange(8), ())],
    "rev": [(lambda x: jnp.flip(x, 0), (X,))],
    "stack": [(lambda x, y: jnp.stack([x, y], 1), (X, X))],
    "unstack": [(lambda x: jnp.unstack(x, axis=1), (X,))],
    "slice": [(lambda x: lax.slice(x, (1, 0), (3, 8)), (X,)), (lambda x: lax.slice(x, (0, 0), (4, 8), (1, 2)), (X,))],
    "dynamic_slice": [(lambda x, i: lax.dynamic_slice(x, (i, 0), (2, 8)), (X, i32()))],
    "dynamic_update_slice": [(lambda x, u, i: lax.dynamic_update_slice(x, u, (i, 0)), (X, f32(1, 8), i32()))],
    "pad": [(lambda x: jnp.pad(x, ((1, 1), (0, 0))), (X,)), (lambda x: lax.pad(x, 0.0, ((0, 0, 0), (0, 0, 1))), (X,))],
    "concatenate": [(lambda x, y: jnp.concatenate([x, y], 0), (X, f32(2, 8)))],
    "split": [(lambda x: jnp.split(x, 2, axis=1), (X,))],
    "tile": [(lambda x: jnp.tile(x, (1, 2)), (X,))],
    "reduce_sum": [(lambda x: jnp.sum(x, 1), (X,)), (jnp.sum, (X,))],
    "reduce_max": [(lambda x: jnp.max(x, 1), (X,))],
    "reduce_min": [(lambda x: jnp.min(x, 0), (X,))],
    "reduce_prod": [(lambda x: jnp.prod(x, 0), (X,))],
    "reduce_and": [(lambda x: jnp.all(x > 0, 0), (X,))],
    "reduce_or": [(lambda x: jnp.any(x > 0, 0), (X,))],
    "reduce_xor": [(lambda x: jnp.bitwise_xor.reduce(x, 0), (i32(4, 8),))],
    "argmax": [(lambda x: jnp.argmax(x, 1), (X,))],
    "argmin": [(lambda x: jnp.argmin(x, 0), (X,))],
    "reduce": [(lambda x: lax.reduce(x, 0.0, lambda a, b: a + b * 2, (1,)), (X,))],
    "cumsum": [(lambda x: jnp.cumsum(x, 0), (X,)), (lambda x: lax.cumsum(x, 1, reverse=True), (X,))],
    "cumprod": [(lambda x: lax.cumprod(x, 0), (X,))],
    "cummax": [(lambda x: lax.cummax(x, 0), (X,))],
    "cummin": [(lambda x: lax.cummin(x, 0), (X,))],
    "cumlogsumexp": [(lambda x: lax.cumlogsumexp(x, 0), (X,))],
    "sort": [(lambda x: jnp.sort(x, 1), (X,)), (lambda x: jnp.argsort(x, 0), (X,))],
    "top_k": [(lambda x: lax.top_k(x, 2), (X,))],
    "approx_top_k": [(lambda x: lax.approx_max_k(x, 2), (X,))],
    "reduce_window": [(_custom_pool, (IMAGE,))],
    "reduce_window_max": [(_pool, (IMAGE,))],
    "reduce_window_min": [(_least, (IMAGE,))],
    "reduce_window_sum": [(_average, (IMAGE,))],
    "select_and_scatter_add": [(jax.grad(_pool_loss), (IMAGE,))],
    "select_and_gather_add": [(lambda x, t: jax.jvp(_pool, (x,), (t,)), (IMAGE, IMAGE))],
    "gather": [
        (lambda x, i: x[i], (X, i32(6))),
        (lambda x, i: x.at[i].get(mode="fill"), (X, i32(6, 2))),
        (lambda x, i: x.at[:, i].get(mode="clip"), (X, i32(6))),
        (lambda x, i, j: x[i, j], (X, i32(6), i32(6))),
        (_rows, (X, i32(4, 2))),
        (_batched_index, (f32(4, 6, 8), i32(4, 2))),
    ],
    "scatter": [(_at("set"), (X, i32(6), f32(6, 8))), (_batched_set, (f32(4, 6, 8), i32(4, 2), f32(4, 2, 8)))],
    "scatter-add": [
        (_at("add"), (X, i32(6), f32(6, 8))),
        (jax.grad(_embed_loss), (X, i32(6, 2))),
        (lambda x, i, j, u: x.at[i, j].add(u), (X, i32(6), i32(6), f32(6))),
        (_batched_add, (f32(4, 6, 8), i32(4, 2), f32(4, 2, 8))),
    ],
    "scatter-sub": [(_at("subtract"), (X, i32(6), f32(6, 8)))],
    "scatter-mul": [(_at("multiply"), (X, i32(6), f32(6, 8)))],
    "scatter-min": [(_at("min"), (X, i32(6), f32(6, 8)))],
    "scatter-max": [(_at("max"), (X, i32(6), f32(6, 8)))],
    "random_bits": [(lambda k: jax.random.bits(k, (4, 8)), (keys(),)), (jax.vmap(jax.random.bits), (keys(4),))],
    "random_split": [(lambda k: jax.random.split(k, 4), (keys(),))],
    "random_fold_in": [(jax.random.fold_in, (keys(), u32())), (jax.vmap(jax.random.fold_in), (keys(4), u32(4)))],
    "random_seed": [(jax.vmap(jax.random.key), (i32(4),))],
    "random_clone": [(jax.random.clone, (keys(4),))],
    "random_wrap": [(_key_of, (u32(4, 2),))],
    "random_unwrap": [(jax.random.key_data, (keys(4),))],
    "optimization_barrier": [(lambda x, y: lax.optimization_barrier((x, y)), (X, Y))],
    "device_put": [(jax.device_put, (X,))],
    "cholesky": [(jnp.linalg.cholesky, (f32(4, 2, 2),))],
    "triangular_solve": [(partial(lax.linalg.triangular_solve, left_side=True), (f32(4, 2, 2), f32(4, 2, 3)))],
    "lu": [(lax.linalg.lu, (f32(4, 2, 2),))],
    "qr": [(jnp.linalg.qr, (f32(4, 2, 2),))],
    "svd": [(jnp.linalg.svd, (f32(4, 2, 2),))],
    "eigh": [(jnp.linalg.eigh, (f32(4, 2, 2),))],
    "fft": [(jnp.fft.fft, (X,))],
    "scan": [(_lstm, LSTM), (jax.grad(_lstm_loss), LSTM)],
    "while": [(_fori, (X, f32(8, 8), i32()))],
    "cond": [(_cond, (jax.ShapeDtypeStruct((), bool), X, f32(8, 8)))],
    "custom_jvp_call": [(_custom, (X,))],
    "custom_vjp_call": [(_scaled, (X,))],
    "checkpoint": [(jax.checkpoint(lambda x, w: jnp.tanh(x @ w)), (X, Y))],
    "mul": [(jnp.multiply, (X, X)), (jnp.multiply, (f32(4, 1), f32(1, 8)))],
    "tanh": [(jnp.tanh, (X,))],
    "select_n": [(jnp.where, (BOOLS, X, X)), (lax.select, (jax.ShapeDtypeStruct((), bool), X, X))],
    "clamp": [(lambda x: lax.clamp(0.0, x, 1.0), (X,))],
    "add": [(lambda x, y: x + y, (X, X)), (lambda x: x + 1.0, (X,)), (lax.add, (X, f32()))],
    "bitcast_convert_type": [(lambda x: lax.bitcast_convert_type(x, jnp.int32), (X,)),
                             (lambda x: lax.bitcast_convert_type(x, jnp.uint8), (X,))],
}

_UNARY = (
    "abs acos acosh asin asinh atan atanh bessel_i0e bessel_i1e cbrt ceil cos cosh digamma erf erf_inv erfc exp exp2 "
    "expm1 floor is_finite lgamma log log1p logistic neg round rsqrt sign sin sinh sqrt square stop_gradient tan tanh"
)
_BINARY = "add atan2 div eq ge gt le lt max min mul ne nextafter pow rem sub"
_BITS = ("shift_left", "shift_right_arithmetic", "shift_right_logical")

ELEMENTWISE: dict[str, Instance] = {
    **{name: (getattr(lax, name), (X,)) for name in _UNARY.split()},
    **{name: (getattr(lax, name), (X, X)) for name in _BINARY.split()},
    **{name: (getattr(lax, name), (WORDS, WORDS)) for name in _BITS},
    **{name: (getattr(lax, f"bitwise_{name}"), (INTS, INTS)) for name in ("and", "or", "xor")},
    "add_any": (compat.add_any_p.bind, (X, X)),
    "bitcast_convert_type": (lambda x: lax.bitcast_convert_type(x, jnp.int32), (X,)),
    "clamp": (lambda x: lax.clamp(0.0, x, 1.0), (X,)),
    "clz": (lax.clz, (WORDS,)),
    "complex": (lax.complex, (X, X)),
    "conj": (lax.conj, (COMPLEX,)),
    "convert_element_type": (lambda x: x.astype(jnp.bfloat16), (X,)),
    "copy": (jnp.copy, (X,)),
    "imag": (lax.imag, (COMPLEX,)),
    "integer_pow": (lambda x: x**3, (X,)),
    "le_to": (partial(jnp.searchsorted, method="compare_all", side="right"), (f32(8), f32(4))),
    "lt_to": (partial(jnp.searchsorted, method="compare_all"), (f32(8), f32(4))),
    "name": (lambda x: checkpoint_name(x, "kept"), (X,)),
    "not": (lax.bitwise_not, (INTS,)),
    "population_count": (lax.population_count, (WORDS,)),
    "real": (lax.real, (COMPLEX,)),
    "reduce_precision": (lambda x: lax.reduce_precision(x, 5, 10), (X,)),
    "select_n": (lax.select, (BOOLS, X, X)),
    "sharding_constraint": (lambda x: lax.with_sharding_constraint(x, _free()), (X,)),
    "threefry2x32": (threefry_2x32, (u32(2), u32(8))),
}
SINCE_0_11: dict[str, Instance] = {
    "log2": (jnp.log2, (X,)),
    "one_minus_square": (lambda x: jax.vjp(jnp.tanh, x)[1](x)[0], (X,)),
}
"""Older versions of JAX write these with other primitives."""
if jax.__version_info__ >= (0, 11):
    ELEMENTWISE |= SINCE_0_11
