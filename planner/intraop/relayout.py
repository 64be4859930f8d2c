"""Values that a compiler lays out anew around matmuls, because its kernels multiply rows by columns and nothing else.

XLA on CPU was seen (jax 0.10.2, compiled steps of transformers) to copy, transposing,
  operands of a batched product whose batch dimensions don't lead, once per value, and its result where a transpose
  follows: heads of an attention;
  one operand, the smaller, of a product that contracts leading dimensions of its left side: gradients of weights.
Right sides are taken as they are.

In: a graph and the operators of one phase of a group. Out: the values that are copied.
"""

from collections.abc import Sequence

from planner.core.graph import Graph, Op
from planner.costs.memory import value_bytes


def relaid(graph: Graph, ops: Sequence[int]) -> tuple[int, ...]:
    """The values that are copied to be laid out anew, each once."""
    found: dict[int, None] = {}
    batched: set[int] = set()
    for n in ops:
        op = graph.ops[n]
        if op.primitive == "dot_general":
            found |= dict.fromkeys(_operands(graph, op))
            if _batch(op)[0]:
                batched.update(op.results)
        elif op.primitive == "transpose" and op.inputs and op.inputs[0] in batched:
            found |= dict.fromkeys(op.results)
    return tuple(found)


def _operands(graph: Graph, op: Op) -> tuple[int, ...]:
    """Operands of a product that are copied."""
    values = [v for v in op.operands[:2] if isinstance(v, int)]
    if len(values) < 2:
        return ()
    leading = [dims == tuple(range(len(dims))) for dims in _batch(op)]
    if _batch(op)[0]:
        return tuple(v for v, leads in zip(values, leading, strict=True) if not leads)
    contracted = tuple(sorted(op.params["dimension_numbers"][0][0]))
    rank = len(graph.values[values[0]].shape)
    trailing = contracted == tuple(range(rank - len(contracted), rank))
    return () if trailing else (min(values, key=lambda v: value_bytes(graph.values[v])),)


def _batch(op: Op) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Batch dimensions of both sides."""
    left, right = op.params["dimension_numbers"][1]
    return tuple(left), tuple(right)
