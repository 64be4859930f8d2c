"""Convolutions: batch and output features pass through, input features reduce, spatial dimensions stay whole.

A sharded spatial dimension would need halo exchange; that is not modelled yet. FLOPs count only the window positions
that fall on data, not on padding or between dilated elements, as XLA does.
"""

from math import prod
from typing import Any

from planner.core.graph import Op
from planner.core.spec import OpRule
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
    return from_labels(ins, outs, [left, kernel], [result], reduce=() if depthwise else ("taken",))
