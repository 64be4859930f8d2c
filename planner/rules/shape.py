"""Operators that only rearrange dimensions: reshape, transpose, broadcast, squeeze, iota.

A reshape splits and merges dimensions in row-major order, so cutting the major-most dimension of a merged group into
contiguous parts cuts the major-most dimension of its other side alike. Source: GSPMD (arXiv:2105.04663, section 3.5).
"""

from collections.abc import Iterator

from planner.core.graph import Op
from planner.core.spec import OpRule
from planner.rules.labels import Label, aligned, elements, from_labels
from planner.rules.table import Values, register


def reshape_groups(before: tuple[int, ...], after: tuple[int, ...]) -> Iterator[tuple[list[int], list[int]]]:
    """The finest split of both shapes into runs of dimensions with equal products, dimensions of size 1 left out.

    Args:
      before: a shape without zeros.
      after: another of as many elements.

    Yields:
      `(dimensions of before, dimensions of after)`, each in order.
    """
    left = [d for d, size in enumerate(before) if size != 1]
    right = [d for d, size in enumerate(after) if size != 1]
    while left:
        run, other = [left.pop(0)], [right.pop(0)]
        a, b = before[run[0]], after[other[0]]
        while a != b:
            if a < b:
                run.append(left.pop(0))
                a *= before[run[-1]]
            else:
                other.append(right.pop(0))
                b *= after[other[-1]]
        yield run, other


@register("reshape")
def reshape(op: Op, ins: Values, outs: Values) -> OpRule:
    """The major-most dimensions of every group of equal product are one factor."""
    before: list[Label] = [None] * len(ins[0].shape)
    after: list[Label] = [None] * len(outs[0].shape)
    if elements(ins[0]) and not op.params.get("dimensions"):
        for run, other in reshape_groups(ins[0].shape, outs[0].shape):
            before[run[0]] = after[other[0]] = run[0]
    return from_labels(ins, outs, [before, *_unlabelled(ins[1:])], [after])


@register("transpose")
def transpose(op: Op, ins: Values, outs: Values) -> OpRule:
    """Dimensions change places."""
    return from_labels(ins, outs, [range(len(ins[0].shape))], [op.params["permutation"]])


@register("broadcast_in_dim")
def broadcast_in_dim(op: Op, ins: Values, outs: Values) -> OpRule:
    """Dimensions that the operand has pass through; those it lacks are factors of the result alone."""
    operand = list(op.params["broadcast_dimensions"])
    return from_labels(ins, outs, [operand, *_unlabelled(ins[1:])], [range(len(outs[0].shape))])


@register("squeeze")
def squeeze(op: Op, ins: Values, outs: Values) -> OpRule:
    """Dimensions of size 1 go."""
    gone = {d % len(ins[0].shape) for d in op.params["dimensions"]}
    return from_labels(ins, outs, [range(len(ins[0].shape))], [[d for d in range(len(ins[0].shape)) if d not in gone]])


@register("iota")
def iota(_op: Op, ins: Values, outs: Values) -> OpRule:
    """Every device can make its own part."""
    return from_labels(ins, outs, _unlabelled(ins), [range(len(outs[0].shape))])


@register("rev")
def rev(op: Op, ins: Values, outs: Values) -> OpRule:
    """Reversed dimensions stay whole."""
    labels = [None if d in op.params["dimensions"] else d for d in range(len(ins[0].shape))]
    return from_labels(ins, outs, [labels], [labels])


def _unlabelled(values: Values) -> list[list[Label]]:
    return [[None] * len(v.shape) for v in values]


@register("stack")
def stack(op: Op, ins: Values, outs: Values) -> OpRule:
    """Equal operands side by side along a new dimension, which stays whole."""
    rank = len(ins[0].shape)
    result: list[Label] = list(range(rank))
    result.insert(op.params["axis"] % (rank + 1), None)
    return from_labels(ins, outs, aligned(ins, rank), [result])


@register("unstack")
def unstack(op: Op, ins: Values, outs: Values) -> OpRule:
    """The parts along one dimension, which stays whole."""
    rank = len(outs[0].shape)
    operand: list[Label] = list(range(rank))
    operand.insert(op.params["axis"] % (rank + 1), None)
    return from_labels(ins, outs, [operand], aligned(outs, rank))
