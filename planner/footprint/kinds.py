"""What a compiler may do with an operator: a few kinds, and which operator is of which.

In: operators, and the compiler. Out: `Kind`s.
"""

from enum import StrEnum

from planner.core.graph import Op
from planner.footprint.compilers import EXPENSIVE, Compiler


class Kind(StrEnum):
    """What the compiler may do with a node.

    VIEW: another shape of the same bytes. BROADCAST: made of less than it shows; never worth keeping. CHEAP: runs again
    in every reader. DEAR: runs once, inside a reader if there is only one. SUM: a reduction; takes in nothing but a
    product. HEAVY: reads buffers and writes a buffer. REDUCE_SCATTER: heavy, makes less of its operand. ALL_REDUCE:
    heavy, and may be merged with others.
    """

    VIEW = "view"
    BROADCAST = "broadcast"
    CHEAP = "cheap"
    DEAR = "dear"
    SUM = "sum"
    HEAVY = "heavy"
    REDUCE_SCATTER = "reduce-scatter"
    ALL_REDUCE = "all-reduce"


VIEWS = frozenset({"reshape", "squeeze", "expand_dims", "optimization_barrier", "copy", "stop_gradient", "name",
                   "sharding_constraint", "device_put"})
BROADCASTS = frozenset({"broadcast_in_dim", "iota"})
CHEAP = frozenset({
    "abs", "add", "add_any", "and", "ceil", "clamp", "convert_element_type", "eq", "floor", "ge", "gt", "is_finite",
    "le", "lt", "max", "min", "mul", "ne", "neg", "not", "or", "reduce_precision", "round", "select_n", "shift_left",
    "shift_right_arithmetic", "shift_right_logical", "sign", "square", "sub", "xor", "integer_pow", "one_minus_square",
    "transpose", "slice", "dynamic_slice", "pad", "rev", "concatenate", "bitcast_convert_type", "real", "imag",
    "complex", "conj", "first_part",
})
SUMS = frozenset({"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "argmax",
                  "argmin", "cumsum", "cummax", "cummin", "cumprod", "cumlogsumexp", "reduce_window_sum",
                  "reduce_window_max"})


def kind_of(op: Op, compiler: Compiler) -> Kind:
    """The kind of an operator's node. Anything unknown is heavy."""
    name = op.primitive
    if name in VIEWS:
        return Kind.VIEW
    if name in BROADCASTS:
        return Kind.BROADCAST
    if name == "div" and not isinstance(op.operands[1], int):
        return Kind.CHEAP  # a division by a constant becomes a multiplication
    if name in compiler.expensive:
        return Kind.DEAR
    if name in CHEAP or name in EXPENSIVE:
        return Kind.CHEAP
    return Kind.SUM if name in SUMS else Kind.HEAVY
