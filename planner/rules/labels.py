"""An operator's factors written as an einsum is: a label per dimension.

Two dimensions with one label belong to one factor; `None` marks a dimension that must not be sharded. In: labels
and types.
Out: `OpRule`. Dimensions of size 1 are left unbound (nothing to cut), as are factors that no shard count divides.
"""

from collections.abc import Collection, Hashable, Sequence
from math import gcd, prod

from planner.core.graph import Value
from planner.core.spec import Factor, FactorKind, Halo, OpRule

Label = Hashable | None
Labels = Sequence[Label]


def from_labels(
    ins: Sequence[Value],
    outs: Sequence[Value],
    operands: Sequence[Labels],
    results: Sequence[Labels],
    *,
    reduce: Collection[Label] = (),
    combine: str = "sum",
    halos: Sequence[Halo] = (),
) -> OpRule:
    """The rule whose factors are the labels.

    Args:
      ins: operand types.
      outs: result types.
      operands: per operand, a label per dimension.
      results: per result, a label per dimension.
      reduce: labels that are summed (or combined) away; they must not appear in `results`.
      combine: how partial results combine.
      halos: slices that shards of an operand exchange along a labelled dimension.

    Returns:
      The rule; a factor's size is the greatest common divisor of its dimensions, or less where shards must be as long
      as a halo.

    Raises:
      ValueError: labels and shapes disagree in number or rank, or a reduced label appears in a result.
    """
    sizes: dict[Label, int] = {}
    for labels, value in zip((*operands, *results), (*ins, *outs), strict=True):
        for label, size in zip(labels, value.shape, strict=True):
            if label is not None and size != 1:
                sizes[label] = gcd(sizes.get(label, 0), size)
    for halo in halos:
        label, size = operands[halo.operand][halo.dimension], ins[halo.operand].shape[halo.dimension]
        if label in sizes:
            sizes[label] = _at_least(max(halo.before, halo.after), size, sizes[label])
    number = {label: n for n, label in enumerate(label for label, size in sizes.items() if size > 1)}
    if any(label in reduce for labels in results for label in labels if label in number):
        raise ValueError(f"a reduced label is on a result: {reduce} in {results}")

    def bind(labels: Labels, value: Value) -> tuple[int | None, ...]:
        return tuple(number.get(a) if size != 1 else None for a, size in zip(labels, value.shape, strict=True))

    return OpRule(
        factors=tuple(Factor(sizes[a], FactorKind.REDUCE if a in reduce else FactorKind.PASS) for a in number),
        operands=tuple(bind(labels, v) for labels, v in zip(operands, ins, strict=True)),
        results=tuple(bind(labels, v) for labels, v in zip(results, outs, strict=True)),
        combine=combine,
        halos=tuple(h for h in halos if h.before + h.after and operands[h.operand][h.dimension] in number),
    )


def _at_least(slices: int, size: int, shards: int) -> int:
    """The largest divisor of a number of shards that leaves each at least so many slices of a dimension."""
    return next(n for n in range(shards, 0, -1) if shards % n == 0 and (size // n >= slices or n == 1))


def replicated_rule(ins: Sequence[Value], outs: Sequence[Value]) -> OpRule:
    """The rule that shards nothing: right for every operator."""
    return OpRule((), tuple((None,) * len(v.shape) for v in ins), tuple((None,) * len(v.shape) for v in outs))


def aligned(values: Sequence[Value], rank: int) -> list[Labels]:
    """Labels of operands that line up dimension by dimension with a result of that rank (scalars have none)."""
    return [range(rank) if len(v.shape) == rank else (None,) * len(v.shape) for v in values]


def own(number: int, value: Value) -> list[Label]:
    """A label for each dimension of one value, shared with no other value of another number."""
    return [(number, d) for d in range(len(value.shape))]


def size_of(value: Value, dimension: int) -> int:
    """Size of one dimension."""
    return value.shape[dimension]


def elements(value: Value) -> int:
    """Number of elements."""
    return prod(value.shape)
