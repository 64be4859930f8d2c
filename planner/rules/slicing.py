"""Operators that cut, join or pad along some dimensions: those stay whole, all others pass through."""

from collections.abc import Collection

from planner.core.graph import Op
from planner.core.spec import OpRule
from planner.rules.labels import Label, from_labels
from planner.rules.table import Values, register


def untouched(ins: Values, outs: Values, touched: Collection[int]) -> OpRule:
    """Every operand and result of the first result's rank lines up; the touched dimensions stay whole."""
    rank = len(outs[0].shape)
    labels: list[Label] = [None if d in touched else d for d in range(rank)]

    def label(values: Values) -> list[list[Label]]:
        return [labels if len(v.shape) == rank else [None] * len(v.shape) for v in values]

    return from_labels(ins, outs, label(ins), label(outs))


def _resized(ins: Values, outs: Values) -> list[int]:
    return [d for d, (a, b) in enumerate(zip(ins[0].shape, outs[0].shape, strict=True)) if a != b]


@register("slice", "dynamic_slice")
def slices(_op: Op, ins: Values, outs: Values) -> OpRule:
    """Dimensions taken in full pass through (a full slice can have no stride and no offset)."""
    return untouched(ins, outs, _resized(ins, outs))


@register("dynamic_update_slice")
def dynamic_update_slice(_op: Op, ins: Values, outs: Values) -> OpRule:
    """Dimensions that the update covers pass through."""
    return untouched(ins, outs, _resized(ins[1:2], outs))


@register("pad")
def pad(op: Op, ins: Values, outs: Values) -> OpRule:
    """Dimensions without padding pass through."""
    touched = [d for d, widths in enumerate(op.params["padding_config"]) if any(widths)]
    return untouched(ins, outs, touched)


@register("concatenate")
def concatenate(op: Op, ins: Values, outs: Values) -> OpRule:
    """The joined dimension stays whole."""
    return untouched(ins, outs, [op.params["dimension"]])


@register("split")
def split(op: Op, ins: Values, outs: Values) -> OpRule:
    """The split dimension stays whole."""
    return untouched(ins, outs, [op.params["axis"]])


@register("tile")
def tile(op: Op, ins: Values, outs: Values) -> OpRule:
    """Repeated dimensions stay whole."""
    return untouched(ins, outs, _resized(ins, outs))
