"""Operators that work element by element: every dimension passes through.

One rule serves them all. Operands have the result's rank, or are scalars; a dimension of size 1 beside a larger one is
broadcast. FLOPs were read off XLA's cost analysis (jax 0.10.2, CPU): arithmetic, comparisons and conversions count 1
per result element, transcendental functions 0 (XLA counts them apart), and a few are expanded before they are counted.
"""

from types import MappingProxyType

from planner.core.graph import Op
from planner.core.spec import OpRule
from planner.rules.labels import aligned, elements, from_labels, own
from planner.rules.table import FlopsOf, Values, no_flops, register

ARITHMETIC = (
    "abs", "add", "add_any", "and", "ceil", "clamp", "clz", "convert_element_type", "div", "eq", "exp2", "floor", "ge",
    "gt", "is_finite", "le", "le_to", "lt", "lt_to", "max", "min", "mul", "ne", "neg", "not", "or", "population_count",
    "reduce_precision", "rem", "round", "select_n", "shift_left", "shift_right_arithmetic", "shift_right_logical",
    "sign", "square", "sub", "xor",
)
TRANSCENDENTAL = (
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "cos", "cosh", "erf", "exp", "expm1", "log",
    "log1p", "pow", "rsqrt", "sin", "sinh", "sqrt", "tan", "tanh",
)
MOVES = ("complex", "conj", "copy", "imag", "name", "real", "sharding_constraint", "stop_gradient")
EXPANDED = MappingProxyType({
    "logistic": 3, "erf_inv": 37, "erfc": 60, "lgamma": 52, "nextafter": 24, "digamma": 52, "bessel_i0e": 60,
    "bessel_i1e": 60, "threefry2x32": 45, "one_minus_square": 2, "log2": 1,
})
"""FLOPs per result element where the compiler expands the function; digamma and Bessel are orders of magnitude."""


def pass_through(_op: Op, ins: Values, outs: Values) -> OpRule:
    """Every dimension of the (equal-shaped) results is a factor, shared by all operands that have it."""
    rank = len(outs[0].shape)
    return from_labels(ins, outs, aligned(ins, rank), aligned(outs, rank))


def per_element(count: int) -> FlopsOf:
    """FLOPs that are `count` for each result element."""

    def flops(_op: Op, _ins: Values, outs: Values) -> int:
        return count * sum(elements(v) for v in outs)

    return flops


def power_flops(op: Op, _ins: Values, outs: Values) -> int:
    """Integer powers are multiplied out by repeated squaring; a negative one costs a division more."""
    exponent = abs(op.params["y"])
    multiplies = max(exponent.bit_length() - 1, 0) + max(exponent.bit_count() - 1, 0)
    return (multiplies + (op.params["y"] < 0)) * elements(outs[0])


register(*ARITHMETIC, flops=per_element(1), elementwise=True)(pass_through)
register(*TRANSCENDENTAL, *MOVES, flops=no_flops, elementwise=True)(pass_through)
register("integer_pow", flops=power_flops, elementwise=True)(pass_through)
for _name, _count in EXPANDED.items():
    register(_name, flops=per_element(_count), elementwise=True)(pass_through)


@register("bitcast_convert_type", flops=per_element(1), elementwise=True)
def bitcast(_op: Op, ins: Values, outs: Values) -> OpRule:
    """Between types of one width, elementwise; otherwise one has a last dimension of the parts, which stays whole."""
    rank = min(len(ins[0].shape), len(outs[0].shape))
    labels = [[d if d < rank else None for d in range(len(v.shape))] for v in (*ins, *outs)]
    return from_labels(ins, outs, labels[:1], labels[1:])


@register("optimization_barrier", "device_put")
def each_passes(_op: Op, ins: Values, outs: Values) -> OpRule:
    """Result i is operand i: each has factors of its own."""
    labels = [own(n, v) for n, v in enumerate(ins)]
    return from_labels(ins, outs, labels, labels)
