"""The weight update as nodes: of a plan of one stage, and its tasks where stages share it.

In: tensors of gradients. Out: tensors of the new parameters and optimizer state.
"""

from collections.abc import Collection, Sequence

from planner.core.graph import Role
from planner.costs.memory import itemsize, shard_bytes
from planner.emit.cutting import TaskCode
from planner.footprint.compiled import Ends, function
from planner.footprint.emitted import Emitted, Function
from planner.footprint.nodes import Nodes


def update(emitted: Emitted, nodes: Nodes, grads: Sequence[int], stage: int) -> list[int]:
    """The weight update of a stage of one; the new parameters and optimizer state."""
    record, program = emitted.record, emitted.program
    graph = program.update
    assert graph is not None
    low = emitted.update_lowering(stage)
    low.nodes = nodes
    stored = {(p.path, p.row): p for p in record.params}
    for i, t in zip(graph.inputs_of(Role.GRAD), grads, strict=True):
        low.at[i.value] = t
    for i in graph.inputs_of(Role.PARAM):
        p = stored[i.path, i.row]
        value = graph.values[i.value]
        t = nodes.given(shard_bytes(value, p.spec, low.mesh_shape), itemsize(value.dtype))
        low.at[i.value] = low.moved(t, value, p.spec, p.update_spec, frozenset(), -1)
    nodes.shown = False
    for n in range(len(graph.ops)):
        low.run(n)
    nodes.shown = True
    found: list[int] = []
    for out in graph.outputs:
        if not isinstance(out.operand, int) or out.operand not in low.at:
            continue
        t = low.at[out.operand]
        if out.role is Role.PARAM:
            p = stored[out.path, out.row]
            t = low.moved(t, graph.values[out.operand], low.spec(out.operand), p.spec, frozenset(), -1)
        found.append(t)
    return found


def update_task(emitted: Emitted, code: TaskCode, given_back: Collection[tuple[int, int]]) -> Function:
    """One of the tasks of an update that stages share. `given_back`: old parameters and optimizer state that give their
    place to the new ones that the task makes (`emit.rounds.replaced`)."""
    record, graph = emitted.record, emitted.program.update
    assert graph is not None
    specs, low = emitted.update_specs, emitted.update_lowering(code.stage)
    low.nodes.shown = False
    stored = {(p.path, p.row): p.spec for p in record.params}
    reads = frozenset(code.reads)
    for i in graph.inputs_of(Role.PARAM):
        if i.value in reads:
            value = graph.values[i.value]
            t = low.nodes.given(shard_bytes(value, stored[i.path, i.row], low.mesh_shape), itemsize(value.dtype))
            low.at[i.value] = low.moved(t, value, stored[i.path, i.row], specs[i.value], frozenset(), -1)
    for n in code.ops:
        low.run(n)
    back = {new for _, new in given_back}
    wanted = {o.operand: stored[o.path, o.row] for o in graph.outputs_of(Role.PARAM)}
    ends = {v: low.moved(low.at[v], graph.values[v], low.spec(v), wanted.get(v, low.spec(v)), frozenset(), -1)
            for v in code.makes}
    return function(emitted, low.nodes, Ends(tuple(t for v, t in ends.items() if v not in back),
                                             tuple(t for v, t in ends.items() if v in back)))
