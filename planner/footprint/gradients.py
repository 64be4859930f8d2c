"""Gradients on their way from the operators that make them to the weight update, as nodes.

In: tensors of contributions or sums. Out: tensors of sums, and of the gradients that the optimizer sees.
"""

from collections.abc import Sequence
from dataclasses import replace

from planner.core.graph import Graph
from planner.core.plan import ParamPlan
from planner.core.spec import Spec
from planner.costs.memory import itemsize, shard_bytes, sum_itemsize
from planner.emit.deferred import final_spec, lead_count, settled_spec
from planner.footprint.emitted import Emitted
from planner.footprint.kinds import Kind
from planner.footprint.nodes import Lowering, Nodes


def added(emitted: Emitted, into: Lowering, param: ParamPlan, stage: int, values: Sequence[int]) -> int:
    """A gradient sum with what a microbatch gives added."""
    size, item = sum_bytes(emitted, param, stage, values[0]), sum_itemsize(param.dtype)
    carried, grad = into.nodes.given(size, item), gradient(emitted, into, param, stage, values)
    return into.nodes.add(Kind.CHEAP, [carried, grad], [(size, item)], -1)[0]


def gradient(emitted: Emitted, into: Lowering, param: ParamPlan, stage: int, values: Sequence[int]) -> int:
    """The gradient of a parameter from one microbatch, contributions added, in the sharding it is summed in."""
    size, item = sum_bytes(emitted, param, stage, values[0]), sum_itemsize(param.dtype)
    nodes, total = into.nodes, into.at[values[0]]
    if nodes.tensors[total].item < item:
        total = nodes.add(Kind.CHEAP, [total], [(item * nodes.tensors[total].elements, item)], -1)[0]
    for v in values[1:]:
        total = nodes.add(Kind.CHEAP, [total, into.at[v]], [(nodes.tensors[total].bytes, item)], -1)[0]
    if emitted.record.microbatches == 1:
        return finished(emitted, nodes, param, total, stage, values[0], into.spec(values[0]))
    if nodes.tensors[total].bytes != size:
        total = nodes.add(Kind.CHEAP, [total], [(size, item)], -1)[0]
    return total


def sum_bytes(emitted: Emitted, param: ParamPlan, stage: int, value: int) -> int:
    """Bytes of the sum of a gradient over microbatches, leading dimensions included."""
    graph, mesh = emitted.given.graph, emitted.record.stages[stage].mesh_shape
    typed = graph.values[value]
    wide = replace(typed, dtype="float32") if itemsize(param.dtype) < 4 else replace(typed, dtype=param.dtype)
    return shard_bytes(wide, settled_spec(emitted.given, param, stage), mesh)


def finished(emitted: Emitted, nodes: Nodes, param: ParamPlan, total: int, stage: int, value: int,
             now: Spec | None = None) -> int:
    """The gradient that the optimizer sees, of a sum: parts added up over devices, in the update's sharding. `value`
    contributes to it, and lies as the sum does, if it isn't in sharding `now`."""
    given, record = emitted.given, emitted.record
    mesh = record.stages[stage].mesh_shape
    leads = lead_count(given, param, value)
    settled = now if now is not None else settled_spec(given, param, stage)
    partial = frozenset(a for axes in settled[:leads] for a in axes)
    graph = Graph((replace(given.graph.values[param.value], shape=param.shape, dtype=param.dtype),), (), (), ())
    move = Lowering(graph, mesh, lambda _: (), lambda _: (), lambda *_: None,
                    scatters=not record.cluster.reduce_scatter_as_all_reduce, beside={}, nodes=nodes)
    return move.moved(total, graph.values[0], settled[leads:], final_spec(given, param, stage), partial, -1)
