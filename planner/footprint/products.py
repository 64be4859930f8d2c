"""Operands of matrix products, as a compiler reads them, and which products become one.

In: a `dot_general` and the graph that it is in. Out: orders of dimensions, and what products have in common.
"""

from collections import Counter
from collections.abc import Sequence

from planner.core.graph import Graph, Op


def is_read_as_is(shape: Sequence[int], contract: Sequence[int], batch: Sequence[int], *, last: bool,
                  transposed: bool) -> bool:
    """Whether an operand lies as a product reads it, [batch, rows, sum] or (`last` is false) [batch, sum, columns], but
    for dimensions that can be seen as one. `transposed`: either will do, and any order where there is no batch."""
    rank = len(shape)
    if moves_nothing(shape, order_of(rank, contract, batch, last=last)):
        return True
    return transposed and (not batch or moves_nothing(shape, order_of(rank, contract, batch, last=not last)))


def is_foldable(rank: int, contract: Sequence[int], batch: Sequence[int]) -> bool:
    """Whether a product reads an operand as it is, whichever of its last two dimensions is summed."""
    return tuple(batch) == tuple(range(len(batch))) and len(contract) == 1 and rank <= len(batch) + 2


def order_of(rank: int, contract: Sequence[int], batch: Sequence[int], *, last: bool) -> tuple[int, ...]:
    """Dimensions as a product reads them: summed ones last, or before those that stay."""
    rest = [d for d in range(rank) if d not in contract and d not in batch]
    return (*batch, *rest, *contract) if last else (*batch, *contract, *rest)


def moves_nothing(shape: Sequence[int], order: Sequence[int]) -> bool:
    """Whether a transposition moves nothing but dimensions of size one."""
    real = [d for d in order if shape[d] > 1]
    return real == sorted(real)


def in_common_counts(graph: Graph) -> Counter[tuple[object, ...]]:
    """How many products read an operand in the same way, to results of the same shape: they become one."""
    return Counter(in_common(graph, op, k) for op in graph.ops if op.primitive == "dot_general" for k in (0, 1))


def in_common(graph: Graph, op: Op, position: int) -> tuple[object, ...]:
    """What products that one operand makes alike have in common."""
    return (position, op.operands[position] if isinstance(op.operands[position], int) else -1,
            str(op.params["dimension_numbers"]), graph.values[op.results[0]].shape)
