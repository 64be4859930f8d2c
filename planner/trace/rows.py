"""Stacked parameters as one input per layer.

A leaf stacked over layers, whose every use is a whole static row (what unrolling a loop over layers leaves behind, and
what `w[3]` traces to), is split: one graph input per row, so that each row can live on the stage of its layer.

Flows in: a forward `Graph`. Flows out: the same with split inputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from planner.core.graph import Graph, Input, Literal, Op, Operand, Role, Value


def split_rows(graph: Graph, role: Role = Role.PARAM) -> Graph:
    """Split every input of that role that is only read row by row. Other value indices stay."""
    values = list(graph.values)
    inputs: list[Input] = []
    renamed: dict[int, int] = {}
    dropped: set[int] = set()
    readers = graph.consumers
    returned = {o.operand for o in graph.outputs if isinstance(o.operand, int)}
    for given in graph.inputs:
        may_split = given.role is role and given.value not in returned
        uses = _row_uses(graph, given.value, readers, returned) if may_split else None
        if uses is None:
            inputs.append(given)
            continue
        whole = graph.values[given.value]
        for row in range(whole.shape[0]):
            values.append(Value(whole.shape[1:], whole.dtype))
            inputs.append(Input(len(values) - 1, role, given.path, row))
            for slicer, squeezer in uses.get(row, ()):
                dropped.update((slicer, squeezer))
                renamed[graph.ops[squeezer].results[0]] = len(values) - 1
    ops = [op for n, op in enumerate(graph.ops) if n not in dropped]
    return replace(graph, values=tuple(values), inputs=tuple(inputs), ops=tuple(_rename(op, renamed) for op in ops),
                   outputs=tuple(replace(o, operand=_new(o.operand, renamed)) for o in graph.outputs))


def _row_uses(graph: Graph, value: int, readers: Mapping[int, Sequence[int]],
              returned: set[int]) -> dict[int, list[tuple[int, int]]] | None:
    """Row -> pairs of operators (slice, then squeeze) that read just it; None if anything else reads the value."""
    uses: dict[int, list[tuple[int, int]]] = {}
    if not graph.values[value].shape or value not in readers:
        return None
    for n in readers[value]:
        row = _whole_row(graph.ops[n], graph.values[value].shape)
        if row is None or graph.ops[n].results[0] in returned:
            return None
        for m in readers.get(graph.ops[n].results[0], ()):
            if graph.ops[m].primitive not in ("squeeze", "reshape") or \
                    graph.values[graph.ops[m].results[0]].shape != graph.values[value].shape[1:]:
                return None
            uses.setdefault(row, []).append((n, m))
    return uses


def _whole_row(op: Op, shape: tuple[int, ...]) -> int | None:
    if op.primitive != "slice":
        return None
    start, stop, strides = op.params["start_indices"], op.params["limit_indices"], op.params["strides"]
    if strides is not None and any(s != 1 for s in strides):
        return None
    whole_rest = all(a == 0 and b == n for a, b, n in zip(start[1:], stop[1:], shape[1:], strict=True))
    return start[0] if whole_rest and stop[0] == start[0] + 1 else None


def _new(operand: Operand, renamed: dict[int, int]) -> Operand:
    return operand if isinstance(operand, Literal) else renamed.get(operand, operand)


def _rename(op: Op, renamed: dict[int, int]) -> Op:
    if renamed.keys().isdisjoint(op.inputs):
        return op
    return replace(op, operands=tuple(_new(o, renamed) for o in op.operands))
