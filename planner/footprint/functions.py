"""The compiled functions of a plan: the step of one stage; a pipeline's forward, backward, and end of gradient sums.

In: a plan as it is emitted. Out: `Function`s.
"""

from collections.abc import Sequence
from dataclasses import replace

from planner.core.graph import Role
from planner.core.plan import ParamPlan
from planner.costs.memory import itemsize, shard_bytes, sum_itemsize
from planner.emit.contributions import contributions
from planner.emit.cutting import TaskCode
from planner.emit.deferred import ends_in_place
from planner.footprint.compiled import Ends, function
from planner.footprint.emitted import Emitted, Function
from planner.footprint.gradients import added, finished, gradient, sum_bytes
from planner.footprint.kinds import Kind
from planner.footprint.nodes import Lowering, Nodes
from planner.footprint.updates import update


def step_function(emitted: Emitted, *, updates: bool = True) -> Function:
    """The step of a plan of one stage; it gives back gradients where the update is not part of it."""
    record, graph = emitted.record, emitted.given.graph
    trained = record.kind == "train"
    if record.microbatches == 1:
        whole = emitted.lowering(0)
        for n in range(len(graph.ops)):
            whole.run(n)
        made = [whole.at[v] for p in record.params if trained for v in contributions(graph, p)]
        grads = [gradient(emitted, whole, p, 0, contributions(graph, p)) for p in record.params] if trained else []
        new = _end(emitted, whole.nodes, grads, updates=updates) if trained else []
        return function(emitted, whole.nodes, Ends(_at(whole, Role.LOSS, Role.AUX),
                                                   (*_at(whole, Role.STATE), *new), (*made, *grads)))
    body = _body(emitted)
    if not trained:
        return body
    after = Nodes()

    def first(param: ParamPlan) -> int:
        return contributions(graph, param)[0]

    sums = after.add(Kind.HEAVY, [], [(sum_bytes(emitted, p, 0, first(p)), sum_itemsize(p.dtype))
                                      for p in record.params], -1)
    grads = [finished(emitted, after, p, t, 0, first(p)) for p, t in zip(record.params, sums, strict=True)]
    new = _end(emitted, after, grads, updates=updates)
    done = function(emitted, after, Ends((), tuple(new), (*sums, *grads)), first=body)
    return replace(done, out_bytes=done.out_bytes + body.out_bytes)


def _end(emitted: Emitted, nodes: Nodes, grads: Sequence[int], *, updates: bool) -> list[int]:
    """What a step ends with: the update, or something that reads all gradients: until they are made, others use the
    place of results."""
    return update(emitted, nodes, grads, 0) if updates else list(nodes.add(Kind.HEAVY, grads, [(0, 1)], -1))


def _at(low: Lowering, *roles: Role) -> tuple[int, ...]:
    """The tensors of a graph's outputs of some roles."""
    return tuple(low.at[o.operand] for role in roles for o in low.graph.outputs_of(role) if isinstance(o.operand, int))


def _body(emitted: Emitted) -> Function:
    """The body of the loop over microbatches. What it carries lies outside."""
    record, graph = emitted.record, emitted.given.graph
    body = emitted.lowering(0)
    for i in graph.inputs_of(Role.BATCH):
        size, item = shard_bytes(graph.values[i.value], body.spec(i.value), body.mesh_shape), \
            itemsize(graph.values[i.value].dtype)
        stacked = body.nodes.given(size, item)
        body.at[i.value] = body.nodes.add(Kind.CHEAP, [stacked], [(size, item)], -1, moves=True)[0]
    for n in range(len(graph.ops)):
        body.run(n)
    sums: list[int] = []
    made: list[int] = []
    for p in record.params if record.kind == "train" else ():
        made += [body.at[v] for v in contributions(graph, p)]
        sums.append(added(emitted, body, p, 0, contributions(graph, p)))
    the_same = tuple(body.at[i.value] for i in graph.inputs_of(Role.PARAM) if i.value in body.at)
    done = function(emitted, body.nodes, Ends(_at(body, Role.LOSS, Role.AUX), (*_at(body, Role.STATE), *sums),
                                              tuple(made), the_same))
    return replace(done, out_bytes=done.out_bytes * record.microbatches)


def task_function(emitted: Emitted, code: TaskCode, summed: Sequence[tuple[ParamPlan, tuple[int, ...]]] = ()
                  ) -> Function:
    """A task of a pipeline's stage; `summed`: the parameters whose gradient it adds to, with what it contributes."""
    low = emitted.lowering(code.stage)
    for n in code.ops:
        low.run(n)
    made = [low.at[v] if v in low.at else low.give(v) for _, values in summed for v in values]
    sums = [added(emitted, low, p, code.stage, values) for p, values in summed]
    return function(emitted, low.nodes, Ends(tuple(low.at[v] for v in code.makes), tuple(sums), tuple(made)))


def finish_function(emitted: Emitted, stage: int, summed: Sequence[tuple[ParamPlan, tuple[int, ...]]]) -> Function:
    """The end of the gradient sums of a pipeline's stage; `summed` as in `task_function`. A gradient takes the place of
    its sum if it lies as that does; what a collective gives is divided by the microbatches into a place of its own."""
    nodes = Nodes()
    sums = [nodes.given(sum_bytes(emitted, p, stage, v[0]), sum_itemsize(p.dtype)) for p, v in summed]
    outs, in_place = list[int](), list[int]()
    for (p, v), given in zip(summed, sums, strict=True):
        if ends_in_place(emitted.given, p, v[0], stage):
            in_place += nodes.add(Kind.CHEAP, [given], [(nodes.tensors[given].bytes, nodes.tensors[given].item)], -1)
            continue
        t = finished(emitted, nodes, p, given, stage, v[0])
        if emitted.record.microbatches > 1 or t == given:
            known, item = nodes.tensors[t], itemsize(p.dtype)
            t = nodes.add(Kind.CHEAP, [t], [(known.elements * item, item)], -1, moves=True)[0]
        outs.append(t)
    return function(emitted, nodes, Ends(tuple(outs), tuple(in_place)))
