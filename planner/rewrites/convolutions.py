"""Scales and norms folded into kernels; convolutions that share an input, as one and apart.

Source: the merging of convolutions in TASO (SOSP 2019, table 3); folding of batch norms for inference as in Jacob et
al. 2017 (arXiv 1712.05877, section 3.2).
"""

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.graph import Graph, Op, Operand, Value
from planner.rewrites.cuts import cut_along, cut_places, for_each_cut, parted
from planner.rewrites.elementwise import applied
from planner.rewrites.pattern import Match, Siblings, is_alone, maker, of_one_dtype
from planner.rewrites.scales import scaled, scaled_operand, scaling, varies
from planner.rewrites.table import rewrite

CONV = "conv_general_dilated"


def conv(params: Mapping[str, Any], x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution like another."""
    return jax.lax.conv_general_dilated(
        x, kernel, params["window_strides"], params["padding"], params["lhs_dilation"], params["rhs_dilation"],
        params["dimension_numbers"], params["feature_group_count"], params["batch_group_count"], params["precision"],
        params["preferred_element_type"])


def is_plain(op: Op) -> bool:
    """Whether every output channel reads every input channel."""
    return op.primitive == CONV and op.params["feature_group_count"] == op.params["batch_group_count"] == 1


def channels(op: Op) -> tuple[int, int, int, int]:
    """Where the channels are: of the input, into and out of the kernel, of the result."""
    d = op.params["dimension_numbers"]
    return d.lhs_spec[1], d.rhs_spec[1], d.rhs_spec[0], d.out_spec[1]


def along(by: jax.Array, dim: int, rank: int) -> jax.Array:
    """A vector (in any shape) or a number, along one dimension of an array of some rank."""
    return by if by.ndim == 0 else jnp.reshape(by, tuple(-1 if d == dim else 1 for d in range(rank)))


def _image(rng: np.random.Generator, channels: int) -> Any:
    return rng.standard_normal((2, *rng.integers(3, 6, 2), channels))


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """As samples do: channels last, padded to the same size."""
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _scaled_results(graph: Graph) -> Iterator[Match]:
    """Convolutions whose result is scaled by channel."""
    for n in range(len(graph.ops)):
        found = scaling(graph, n)
        m = None if found is None else maker(graph, found[1], CONV)
        if found is not None and m is not None and is_alone(graph, m) and of_one_dtype(graph, graph.ops[m]) and \
                varies(graph, found[2]) <= {channels(graph.ops[m])[3]}:
            x, kernel = graph.ops[m].operands
            yield Match(graph, {"scale": n, "conv": m}, {"x": x, "kernel": kernel, "by": found[2]}, {},
                        graph.ops[n].results)


def _scaled_conv(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    i, o = (int(n) for n in rng.integers(1, 4, 2))
    return (lambda x, k, s: (convolve(x, k) * s, convolve(jnp.sin(x), k, 2) / 3.0)), \
        (_image(rng, i), rng.standard_normal((3, 3, i, o)), rng.standard_normal(o))


@rewrite("scale_into_kernel", "conv(x, k)*s -> conv(x, k*s)", _scaled_results, samples=_scaled_conv)
def scale_into_kernel(match: Match, x: jax.Array, kernel: jax.Array, by: jax.Array) -> jax.Array:
    """The kernel is scaled, which is small."""
    op = match.op("conv")
    return conv(op.params, x, scaled(match.op("scale"), kernel, along(by, channels(op)[2], kernel.ndim)))


def _scaled_kernels(graph: Graph) -> Iterator[Match]:
    """Convolutions with a kernel that is scaled by output channel."""
    for n, op in enumerate(graph.ops):
        found = scaled_operand(graph, op.operands[1]) if op.primitive == CONV else None
        if found is not None and varies(graph, found[2]) <= {channels(op)[2]}:
            yield Match(graph, {"conv": n, "scale": found[0]}, {"x": op.operands[0], "kernel": found[1],
                                                                "by": found[2]}, {}, op.results)


def _conv_of_scaled(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    i, o = (int(n) for n in rng.integers(2, 4, 2))
    return (lambda x, k, s: convolve(x, k * s)), \
        (_image(rng, i), rng.standard_normal((3, 3, i, o)), rng.standard_normal(o))


@rewrite("scale_out_of_kernel", "conv(x, k*s) -> conv(x, k)*s", _scaled_kernels, samples=_conv_of_scaled)
def scale_out_of_kernel(match: Match, x: jax.Array, kernel: jax.Array, by: jax.Array) -> jax.Array:
    """The result is scaled, where the kernel is not small."""
    op = match.op("conv")
    out = conv(op.params, x, kernel)
    return scaled(match.op("scale"), out, along(by, channels(op)[3], out.ndim))


def _scaled_inputs(graph: Graph) -> Iterator[Match]:
    """Convolutions of what is scaled by channel."""
    for n, op in enumerate(graph.ops):
        found = scaled_operand(graph, op.operands[0]) if is_plain(op) else None
        if found is not None and varies(graph, found[2]) <= {channels(op)[0]}:
            yield Match(graph, {"conv": n, "scale": found[0]}, {"x": found[1], "kernel": op.operands[1],
                                                                "by": found[2]}, {}, op.results)


def _conv_of_scaled_input(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    i, o = (int(n) for n in rng.integers(2, 4, 2))
    return (lambda x, k, s: convolve(x * s, k)), \
        (_image(rng, i), rng.standard_normal((3, 3, i, o)), rng.standard_normal(i))


@rewrite("input_scale_into_kernel", "conv(x*s, k) -> conv(x, s*k)", _scaled_inputs, samples=_conv_of_scaled_input)
def input_scale_into_kernel(match: Match, x: jax.Array, kernel: jax.Array, by: jax.Array) -> jax.Array:
    """The kernel is scaled by input channel; what is padded is 0 either way."""
    op = match.op("conv")
    return conv(op.params, x, scaled(match.op("scale"), kernel, along(by, channels(op)[1], kernel.ndim)))


def _normalised(graph: Graph, *, wide: bool) -> Iterator[Match]:
    """Convolutions whose result is shifted and scaled by channel, as a norm of fixed statistics does; in the dtype of
    the kernel, or another."""
    for n in range(len(graph.ops)):
        outer = scaling(graph, n)
        inner = None if outer is None else scaled_operand(graph, outer[1], ("add", "sub"))
        if outer is None or inner is None:
            continue
        cast = maker(graph, inner[1], "convert_element_type")
        at: Operand = inner[1] if cast is None else graph.ops[cast].operands[0]
        m = maker(graph, at, CONV)
        if m is None or not is_alone(graph, m) or (cast is not None and not is_alone(graph, cast)):
            continue
        if wide == (cast is None and of_one_dtype(graph, graph.ops[m])):
            continue
        channel = {channels(graph.ops[m])[3]}
        if varies(graph, outer[2]) <= channel and varies(graph, inner[2]) <= channel:
            x, kernel = graph.ops[m].operands
            yield Match(graph, {"scale": n, "shift": inner[0], "conv": m},
                        {"x": x, "kernel": kernel, "shift": inner[2], "by": outer[2]}, {}, graph.ops[n].results)


def _normed(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    i, o = (int(n) for n in rng.integers(2, 4, 2))
    return (lambda x, k, m, s, b: (convolve(x, k) - m) * s + b), \
        (_image(rng, i), rng.standard_normal((3, 3, i, o)), *(rng.standard_normal(o) for _ in range(3)))


@rewrite("fold_norm_into_kernel", "(conv(x, k) - m)*s -> conv(x, k*s) - m*s", lambda graph: _normalised(
    graph, wide=False), samples=_normed)
def fold_norm_into_kernel(match: Match, x: jax.Array, kernel: jax.Array, shift: jax.Array, by: jax.Array) -> jax.Array:
    """A norm of fixed statistics costs one addition."""
    op, scale = match.op("conv"), match.op("scale")
    out = conv(op.params, x, scaled(scale, kernel, along(by, channels(op)[2], kernel.ndim)))
    return applied(match.op("shift"), [out.astype(match.result("scale").dtype), scaled(scale, shift, by)])


def _normed_wide(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    _, (x, k, *rest) = _normed(rng)
    small = [(4 * a).astype(np.int32).astype(np.float32) for a in (x, k)]  # of few digits, which are exact

    def wide(x: jax.Array, k: jax.Array, m: jax.Array, s: jax.Array, b: jax.Array) -> jax.Array:
        return (convolve(x, k).astype(jnp.float64) - m) * s + b

    return wide, (*small, *rest)


rewrite("fold_norm_into_narrow_kernel", "(cast(conv(x, k)) - m)*s -> cast(conv(x, k*s)) - m*s", lambda graph:
        _normalised(graph, wide=True), samples=_normed_wide,
        assumes="the scale may be rounded to the kernel's type")(fold_norm_into_kernel)


def _alike(op: Op, types: tuple[Value, ...]) -> Hashable | None:
    """Of convolutions that differ in the number of output channels."""
    if not is_plain(op):
        return None
    rest = tuple(n for d, n in enumerate(types[1].shape) if d != channels(op)[2])
    return tuple(sorted((k, str(v)) for k, v in op.params.items())), rest, types[1].dtype


def _branches(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    i, *o = (int(n) for n in rng.integers(1, 4, 3))
    return (lambda x, *k: tuple(jnp.sin(convolve(x, a)) for a in k)), \
        (_image(rng, i), *(rng.standard_normal((3, 3, i, n)) for n in o))


@rewrite("fuse_convs", "conv(x, k), conv(x, l) -> conv(x, [k l]), cut", Siblings(CONV, 0, _alike), samples=_branches)
def fuse_convs(match: Match, x: jax.Array, *kernels: jax.Array) -> tuple[jax.Array, ...]:
    """One convolution for all that share their input."""
    op = match.op("0")
    _, _, out, channel = channels(op)
    whole = conv(op.params, x, jnp.concatenate(kernels, out))
    return tuple(parted(whole, [kernel.shape[out] for kernel in kernels], channel))


def _is_cut_by_channel(match: Match) -> bool:
    found = cut_along(match)
    return found is not None and found[0] == channels(match.op("op"))[3]


def _cut_conv(rng: np.random.Generator) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    i, o = (int(n) for n in rng.integers(1, 4, 2))
    return (lambda x, k: tuple(jnp.sin(y) for y in jnp.split(convolve(x, k), 2, -1))), \
        (_image(rng, i), rng.standard_normal((3, 3, i, 2 * o)))


@rewrite("split_conv", "cuts of conv(x, k) by channel -> convolutions with cuts of k",
         lambda graph: cut_places(graph, is_plain), where=_is_cut_by_channel, samples=_cut_conv)
def split_conv(match: Match, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, ...]:
    """A convolution for every part that is read."""
    op = match.op("op")
    _, _, out, channel = channels(op)
    return for_each_cut(match, lambda cut: conv(op.params, x, cut.of(kernel, [channel if d == out else None
                                                                             for d in range(kernel.ndim)])))
