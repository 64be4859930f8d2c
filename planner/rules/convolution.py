"""Convolutions: batch and output features pass through, input features reduce, and the longest spatial dimension does
either, with halo exchange.

Where the result is as long as the input, shards of both lie side by side; in the gradient of a filter it is the window
that is as long, and shards add up. Each device then needs the slices of its neighbours that its windows reach into
(Dryden et al., IPDPS'19), which the compiler exchanges by permutes (jax 0.10.2). Other spatial dimensions stay whole:
cutting them as well would send less only among many devices. FLOPs count only the window positions that fall on data,
not on padding or between dilated elements, as XLA does.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

from planner.core.graph import Op
from planner.core.spec import Halo, OpRule
from planner.rules.labels import Label, from_labels, replicated_rule, size_of
from planner.rules.table import Values, register


def conv_flops(op: Op, ins: Values, outs: Values) -> int:
    """2 · batch · output features · (input features per group) · positions of the window that fall on data."""
    numbers = op.params["dimension_numbers"]
    positions = prod(_positions(op.params, ins, outs, n) for n in range(len(ins[1].shape) - 2))
    batch: int = size_of(ins[0], numbers.lhs_spec[0]) // op.params["batch_group_count"]
    made, taken = size_of(ins[1], numbers.rhs_spec[0]), size_of(ins[1], numbers.rhs_spec[1])
    return 2 * batch * made * taken * positions


def _positions(params: Any, ins: Values, outs: Values, n: int) -> int:
    """Over spatial dimension `n`: how many (output, kernel) index pairs meet an element of the input."""
    numbers = params["dimension_numbers"]
    size = size_of(ins[0], numbers.lhs_spec[2 + n])
    window = size_of(ins[1], numbers.rhs_spec[2 + n])
    out = size_of(outs[0], numbers.out_spec[2 + n])
    stride: int = params["window_strides"][n]
    low: int = params["padding"][n][0]
    spread: int = params["lhs_dilation"][n]
    step: int = params["rhs_dilation"][n]
    last = (size - 1) * spread
    count = 0
    for k in range(window):
        places = (o * stride + k * step - low for o in range(out))
        count += sum(1 for at in places if 0 <= at <= last and at % spread == 0)
    return count


def _in_groups(op: Op, ins: Values, _outs: Values) -> bool:
    """Whether features come in groups of several: the compiler partitions only plain and depthwise convolutions."""
    groups, features = op.params["feature_group_count"], op.params["dimension_numbers"].lhs_spec[1]
    return op.params["batch_group_count"] > 1 or groups not in (1, ins[0].shape[features])


@register("conv_general_dilated", flops=conv_flops, whole=_in_groups)
def conv_general_dilated(op: Op, ins: Values, outs: Values) -> OpRule:
    """`[N, I, ...] * [O, I, ...] -> [N, O, ...]` in any order of dimensions.

    In a depthwise convolution the features pass through, with no reduction. Other groups make the compiler gather
    everything (jax 0.10.2, CPU): nothing is sharded.
    """
    if _in_groups(op, ins, outs):
        return replicated_rule(ins, outs)
    numbers = op.params["dimension_numbers"]
    left: list[Label] = [None] * len(ins[0].shape)
    kernel: list[Label] = [None] * len(ins[1].shape)
    result: list[Label] = [None] * len(outs[0].shape)
    left[numbers.lhs_spec[0]] = result[numbers.out_spec[0]] = "batch"
    kernel[numbers.rhs_spec[0]] = result[numbers.out_spec[1]] = "made"
    depthwise = op.params["feature_group_count"] > 1
    left[numbers.lhs_spec[1]] = "made" if depthwise else "taken"
    kernel[numbers.rhs_spec[1]] = None if depthwise else "taken"
    space = _space(op.params, ins, outs)
    if space is None:
        return from_labels(ins, outs, [left, kernel], [result], reduce=() if depthwise else ("taken",))
    n, reach = space
    left[numbers.lhs_spec[2 + n]] = "space"
    (kernel if reach.sums else result)[(numbers.rhs_spec if reach.sums else numbers.out_spec)[2 + n]] = "space"
    reduce = [*([] if depthwise else ["taken"]), *(["space"] if reach.sums else [])]
    return from_labels(ins, outs, [left, kernel], [result], reduce=reduce,
                       halos=[Halo(0, numbers.lhs_spec[2 + n], reach.before, reach.after)])


@dataclass(frozen=True)
class _Reach:
    """How far windows reach into the shards before and after, in slices; `sums`: the window is cut, not the result."""

    before: int
    after: int
    sums: bool


def _space(params: Any, ins: Values, outs: Values) -> tuple[int, _Reach] | None:
    """The longest spatial dimension, the first of equals, and how far windows reach; None where its shards would not
    lie side by side."""
    numbers = params["dimension_numbers"]
    sizes = [size_of(ins[0], d) for d in numbers.lhs_spec[2:]]
    if not sizes:
        return None
    n = max(range(len(sizes)), key=lambda d: (sizes[d], -d))
    window, out = size_of(ins[1], numbers.rhs_spec[2 + n]), size_of(outs[0], numbers.out_spec[2 + n])
    reach = _reach(params, (sizes[n], window, out), n)
    return None if reach is None else (n, reach)


def _reach(params: Any, sizes: tuple[int, int, int], n: int) -> _Reach | None:
    """Over spatial dimension `n` with its sizes of input, window and result.

    Result `o` meets element `k` of the window at place `o · stride + k · step − low` of the input, of which every
    `spread`-th holds data. A device's places start where its input does, and reach so far ahead of and behind that.
    """
    size, window, out = sizes
    stride, spread, step = params["window_strides"][n], params["lhs_dilation"][n], params["rhs_dilation"][n]
    low: int = params["padding"][n][0]
    if window > out:
        if spread != 1 or size != window * step:
            return None
        return _Reach(max(low, 0), max((out - 1) * stride - low - step + 1, 0), sums=True)
    if (stride != 1 and spread != 1) or size * spread != out * stride:
        return None
    behind = ((window - 1) * step - low - stride) // spread + 1
    return _Reach(max(low // spread, 0), max(behind, 0), sums=False)
