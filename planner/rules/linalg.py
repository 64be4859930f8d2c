"""Decompositions, solves and Fourier transforms: leading batch dimensions pass through, the matrix stays whole."""

from planner.core.graph import Op, Value
from planner.core.spec import OpRule
from planner.rules.labels import Label, elements, from_labels, replicated_rule
from planner.rules.table import Values, always, register


def _leading(ins: Values, outs: Values, batch: int) -> OpRule:
    def label(values: Values) -> list[list[Label]]:
        return [[d if d < batch else None for d in range(len(v.shape))] for v in values]

    return from_labels(ins, outs, label(ins), label(outs))


def cubic_flops(_op: Op, ins: Values, _outs: Values) -> int:
    """The order of a decomposition: elements times the last dimension."""
    return elements(ins[0]) * _last(ins[0])


def _last(value: Value) -> int:
    return value.shape[-1] if value.shape else 1


@register(
    "cholesky", "lu", "qr", "svd", "eigh", "triangular_solve", flops=cubic_flops,
)
def decomposition(_op: Op, ins: Values, outs: Values) -> OpRule:
    """`[batch..., n, m] -> [batch..., ...]`."""
    return _leading(ins, outs, len(ins[0].shape) - 2)


def fft_flops(_op: Op, ins: Values, outs: Values) -> int:
    """5 n log2 n per transform, the usual count of the fast Fourier transform."""
    n = max(elements(ins[0]), elements(outs[0]))
    return 5 * n * max(_last(ins[0]) - 1, 0).bit_length()


@register("fft", flops=fft_flops, whole=always)
def fft(_op: Op, ins: Values, outs: Values) -> OpRule:
    """The compiler gathers the operand of every transform (jax 0.10.2, CPU): nothing is sharded."""
    return replicated_rule(ins, outs)
