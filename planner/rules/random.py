"""Random numbers: each device makes its own part of the bits from the whole key.

That holds for JAX's counter-based keys in their partitionable form, JAX's default. FLOPs of a hash are read off XLA's
cost analysis of threefry (jax 0.10.2): 45 per 32-bit word.
"""

from planner.core.graph import Op
from planner.core.spec import OpRule
from planner.rules.elementwise import per_element
from planner.rules.labels import Label, from_labels
from planner.rules.table import Values, register

_HASH_FLOPS = 45


@register("random_bits", flops=per_element(_HASH_FLOPS))
@register("random_split", flops=per_element(2 * _HASH_FLOPS))
def draw(_op: Op, ins: Values, outs: Values) -> OpRule:
    """`keys[k...] -> bits[k..., shape...]`: the drawn dimensions are factors of the result alone."""
    rank = len(outs[0].shape)
    return from_labels(ins, outs, [range(len(v.shape)) for v in ins], [range(rank)])


@register("random_fold_in", flops=per_element(2 * _HASH_FLOPS))
@register("random_seed", "random_clone")
def per_key(_op: Op, ins: Values, outs: Values) -> OpRule:
    """One key for each key or seed."""
    rank = len(outs[0].shape)
    return from_labels(ins, outs, [range(len(v.shape)) for v in ins], [range(rank)])


@register("random_wrap", "random_unwrap")
def words_of_key(_op: Op, ins: Values, outs: Values) -> OpRule:
    """A key is a few words in a last dimension, which stays whole."""
    rank = min(len(ins[0].shape), len(outs[0].shape))

    def label(values: Values) -> list[list[Label]]:
        return [[d if d < rank else None for d in range(len(v.shape))] for v in values]

    return from_labels(ins, outs, label(ins), label(outs))
