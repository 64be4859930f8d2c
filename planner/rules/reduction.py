"""Reductions, running reductions and sorts.

A plain reduction leaves partial results, one per shard, to be combined. Running reductions, sorts and arg-reductions
need their dimension whole.
"""

from math import prod
from types import MappingProxyType

from planner.core.graph import Op
from planner.core.spec import OpRule
from planner.rules.labels import Label, elements, from_labels, replicated_rule, size_of
from planner.rules.slicing import untouched
from planner.rules.table import FlopsOf, Values, always, register

COMBINE = MappingProxyType({
    "reduce_sum": "sum", "reduce_max": "max", "reduce_min": "min", "reduce_prod": "prod", "reduce_or": "or",
    "reduce_and": "and",
})
_WINDOW = 16  # block length of XLA's running reductions on CPU, read off the cost analysis (jax 0.10.2)
_ARG_FLOPS = 9  # comparisons and selects of XLA's argmax reducer, read off the cost analysis (jax 0.10.2)
_LOGSUMEXP_FLOPS = 8  # the same for log-add-exp


def per_combination(count: int) -> FlopsOf:
    """FLOPs of a reduction whose reducer costs `count`: one combination fewer than elements, per result element."""

    def flops(_op: Op, ins: Values, outs: Values) -> int:
        return count * max(elements(ins[0]) - elements(outs[0]), 0)

    return flops


@register(*COMBINE, flops=per_combination(1))
def reduce(op: Op, ins: Values, outs: Values) -> OpRule:
    """Reduced dimensions are reduction factors, the others pass through."""
    axes = op.params["axes"]
    kept = [d for d in range(len(ins[0].shape)) if d not in axes]
    combine = COMBINE[op.primitive]
    return from_labels(ins, outs, [range(len(ins[0].shape))], [kept], reduce=axes, combine=combine)


@register("reduce_xor", "argmax", "argmin", flops=per_combination(_ARG_FLOPS))
def reduce_whole(op: Op, ins: Values, outs: Values) -> OpRule:
    """Reduced dimensions stay whole: the combination of partial results is none of those the planner can emit."""
    return _keep(ins, outs, op.params["axes"])


@register("reduce", flops=per_combination(1))
def reduce_custom(op: Op, ins: Values, outs: Values) -> OpRule:
    """A reduction by the user's own function: reduced dimensions stay whole. Half of the operands are start values."""
    return _keep(ins, outs, op.params["dimensions"])


def _keep(ins: Values, outs: Values, axes: tuple[int, ...]) -> OpRule:
    rank = len(ins[0].shape)
    kept = [d for d in range(rank) if d not in axes]
    labels: list[Label] = [None if d in axes else d for d in range(rank)]
    operands = [labels if len(v.shape) == rank else [None] * len(v.shape) for v in ins]
    return from_labels(ins, outs, operands, [kept for _ in outs])


def running_length(size: int) -> int:
    """Combinations that XLA makes for a running reduction over `size` elements: blocks of 16, then over the blocks."""
    if size <= _WINDOW:
        return size * (size - 1)
    total, blocks = 0, size
    while blocks > _WINDOW:
        blocks = -(-blocks // _WINDOW)
        total += _WINDOW * _WINDOW * blocks
    return total + blocks * blocks - 1


def running_flops(op: Op, ins: Values, _outs: Values) -> int:
    """Rows times the combinations of one row."""
    size = size_of(ins[0], op.params["axis"])
    each = _LOGSUMEXP_FLOPS if op.primitive == "cumlogsumexp" else 1
    return each * elements(ins[0]) // max(size, 1) * running_length(size)


@register("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", flops=running_flops)
def running(op: Op, ins: Values, outs: Values) -> OpRule:
    """The dimension that is run over stays whole."""
    return untouched(ins, outs, [op.params["axis"]])


def sort_flops(_op: Op, ins: Values, _outs: Values) -> int:
    """XLA's count: n · ceil(log2 n) over all elements of one operand."""
    n = elements(ins[0])
    return n * max(n - 1, 0).bit_length()


@register("sort", flops=sort_flops)
def sort(op: Op, ins: Values, outs: Values) -> OpRule:
    """The sorted dimension stays whole; several operands are sorted together."""
    return untouched(ins, outs, [op.params["dimension"]])


@register("top_k", whole=always)
def top_k(_op: Op, ins: Values, outs: Values) -> OpRule:
    """The compiler gathers the operand whatever dimension is sharded (jax 0.10.2, CPU): nothing is."""
    return replicated_rule(ins, outs)


@register("approx_top_k")
def approx_top_k(op: Op, ins: Values, outs: Values) -> OpRule:
    """The dimension that is searched stays whole."""
    return untouched(ins, outs, [op.params["reduction_dimension"] % len(ins[0].shape)])


def window_flops(op: Op, ins: Values, outs: Values) -> int:
    """One combination fewer than the window has elements, per result element (per operand element for a scatter)."""
    window = prod(op.params["window_dimensions"])
    if op.primitive.startswith("select_and_scatter"):
        return window * elements(ins[0])
    return (window - 1) * elements(outs[0])


@register(
    "reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min", "select_and_scatter_add",
    "select_and_gather_add", flops=window_flops,
)
def window(op: Op, ins: Values, outs: Values) -> OpRule:
    """Dimensions that no window spans pass through, and those that windows tile; the others stay whole: the compiler
    exchanges halos for them, but far more than windows reach where it differentiates (jax 0.10.2, CPU)."""
    sizes, strides, padding = (op.params[k] for k in ("window_dimensions", "window_strides", "padding"))
    ones = (1,) * len(sizes)
    dilations = [op.params.get(k) or ones for k in ("base_dilation", "window_dilation")]
    shapes = [v.shape for v in (*ins, *outs) if len(v.shape) == len(sizes)]
    touched: list[int] = []
    for d, size in enumerate(sizes):
        plain = not any(padding[d]) and all(x[d] == 1 for x in dilations)
        long, short = max(s[d] for s in shapes), min(s[d] for s in shapes)
        if not plain or size != strides[d] or long != (short if size == 1 else size * short):
            touched.append(d)
    return untouched(ins, outs, touched)
