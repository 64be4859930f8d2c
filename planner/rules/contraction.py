"""Matrix products: batch and free dimensions pass through, contracted dimensions reduce.

Source: the sharding of einsum in GSPMD (arXiv:2105.04663, section 3).
"""

from planner.core.graph import Op
from planner.core.spec import OpRule
from planner.rules.labels import Label, elements, from_labels
from planner.rules.table import Values, register

Numbers = tuple[tuple[tuple[int, ...], tuple[int, ...]], tuple[tuple[int, ...], tuple[int, ...]]]
"""JAX's form: ((contracted of the left, of the right), (batch of the left, of the right))."""


def dot_flops(op: Op, ins: Values, outs: Values) -> int:
    """Two per multiply-add: 2 · |result| · |contracted dimensions|; an outer product only multiplies."""
    contracted: tuple[int, ...] = op.params["dimension_numbers"][0][0]
    flops = (2 if contracted else 1) * elements(outs[0])
    for d in contracted:
        flops *= ins[0].shape[d]
    return flops


@register("dot_general", flops=dot_flops)
def dot_general(op: Op, ins: Values, outs: Values) -> OpRule:
    """`[batch, m, k] · [batch, k, n] -> [batch, m, n]` with any number and order of dimensions of each kind."""
    numbers: Numbers = op.params["dimension_numbers"]
    (left_contracted, right_contracted), (left_batch, right_batch) = numbers
    left: list[Label] = [("left", d) for d in range(len(ins[0].shape))]
    right: list[Label] = [("right", d) for d in range(len(ins[1].shape))]
    for d, e in zip((*left_batch, *left_contracted), (*right_batch, *right_contracted), strict=True):
        right[e] = left[d]
    result = [left[d] for d in left_batch]
    result += [a for d, a in enumerate(left) if d not in left_batch and d not in left_contracted]
    result += [a for e, a in enumerate(right) if e not in right_batch and e not in right_contracted]
    return from_labels(ins, outs, [left, right], [result], reduce=[left[d] for d in left_contracted])


def ragged_flops(op: Op, ins: Values, outs: Values) -> int:
    """Each row meets the matrix of its own group: as a dense product of the result's size."""
    numbers: Numbers = op.params["ragged_dot_dimension_numbers"].dot_dimension_numbers
    contracted = numbers[0][0]
    flops = 2 * elements(outs[0])
    for d in contracted:
        flops *= ins[0].shape[d]
    return flops


@register("ragged_dot_general", flops=ragged_flops)
def ragged_dot_general(op: Op, ins: Values, outs: Values) -> OpRule:
    """`[m, k] · [group, k, n], sizes[group] -> [m, n]`: n passes, k reduces; rows and groups stay whole.

    Other forms (ragged contraction, ragged batch) shard nothing but the free dimensions of the right-hand side.
    """
    numbers = op.params["ragged_dot_dimension_numbers"]
    dot: Numbers = numbers.dot_dimension_numbers
    (left_contracted, right_contracted), (left_batch, right_batch) = dot
    ragged: tuple[int, ...] = tuple(numbers.lhs_ragged_dimensions)
    groups: tuple[int, ...] = tuple(numbers.rhs_group_dimensions)
    left: list[Label] = [None] * len(ins[0].shape)
    right: list[Label] = [("right", e) for e in range(len(ins[1].shape))]
    for e in (*groups, *right_batch, *right_contracted):
        right[e] = None
    free_ragged = bool(groups) and not set(ragged) & {*left_contracted, *left_batch}
    reduced: list[Label] = []
    if free_ragged:
        for d, e in zip(left_contracted, right_contracted, strict=True):
            left[d] = right[e] = ("contracted", d)
            reduced.append(left[d])
    free = [a for e, a in enumerate(right) if e not in (*right_batch, *right_contracted, *groups)]
    result: list[Label] = [*(None for _ in range(len(outs[0].shape) - len(free))), *free]
    return from_labels(ins, outs, [left, right, *((None,) * len(v.shape) for v in ins[2:])], [result], reduce=reduced)
