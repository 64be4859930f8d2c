"""The compiled functions of a plan as kernels over buffers, and what each needs beside its arguments.

A plan of one stage is one function (the step); a pipeline has per stage a forward, a backward, the end of the gradient
sums, and the weight update. In: a `PlanRecord` and its program. Out: `Function`s.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from planner.core.graph import Graph, Phase, Program, Role
from planner.core.plan import ParamPlan, PlanRecord
from planner.core.spec import Spec, replicated
from planner.costs.liveness import as_ready, packed, places
from planner.costs.memory import Live, itemsize, shard_bytes
from planner.emit.annotated import Annotated, annotate_program
from planner.emit.deferred import final_spec, lead_count, settled_spec, with_deferred_gradients
from planner.emit.gathers import with_gathers_per_layer
from planner.emit.inferred import Inferred, infer
from planner.emit.micro import contributions
from planner.emit.recompute import with_recompute
from planner.emit.settle import with_products_as_made
from planner.emit.update_specs import opt_state_places
from planner.footprint.kernels import Fused, fuse
from planner.footprint.nodes import Kind, Lowering, Nodes


@dataclass(frozen=True)
class Function:
    """A compiled function on one device.

    Attributes:
      held: what it holds beside its arguments: intervals over its own time.
      ops: operator that runs at each time (-1: none of the plan's own).
      out_bytes: results that don't lie in an argument's place.
      temp_bytes: of an allocation for `held`.
    """

    held: tuple[Live, ...]
    ops: tuple[int, ...]
    out_bytes: int
    temp_bytes: int


class Emitted:
    """A plan's program as it is emitted, with the sharding of every value."""

    def __init__(self, record: PlanRecord, program: Program) -> None:
        self.record, self.program = record, program
        before = with_recompute(record, annotate_program(record, program))
        self.before = with_products_as_made(record, with_gathers_per_layer(record, before))
        self.given, _ = with_deferred_gradients(record, self.before)
        self.inferred = [infer(self.before, s) for s in range(len(record.stages))]

    def lowering(self, stage: int) -> Lowering:
        """A lowering of the micro graph on a stage."""
        return lowering(self.given, self.inferred[stage], stage, self.record)


def lowering(given: Annotated, inferred: Inferred, stage: int, record: PlanRecord) -> Lowering:
    """A lowering of an annotated graph on a stage."""
    graph, specs, mesh = given.graph, given.specs[stage], record.stages[stage].mesh_shape

    def natural(value: int) -> Spec:
        rank = len(graph.values[value].shape)
        known = inferred.natural.get(value)
        return known if known is not None and len(known) == rank else specs.get(value, replicated(rank))

    def made(n: int) -> list[tuple[Spec, frozenset[int]]]:
        summed = frozenset(a for _, axes in inferred.reduced.get(n, ()) for a in axes)
        found = []
        for r in graph.ops[n].results:
            whole = inferred.natural.get(r)
            as_is = whole is not None and len(whole) == len(graph.values[r].shape)
            found.append((natural(r), summed if as_is else frozenset[int]()))
        return found

    return Lowering(graph, mesh, lambda v: specs.get(v, natural(v)), made, lambda n, k: given.uses.get((n, k)),
                    scatters=not record.cluster.reduce_scatter_as_all_reduce)


def function(fused: Fused, outs: Iterable[int], *, donated: Iterable[int] = (), first: "Function | None" = None,
             early: bool) -> Function:
    """Schedule kernels and lay out what they hold. `outs`: tensors that are results; `donated`: those of them that lie
    in an argument's place; `first`: what the first kernel is, if that is a function of its own (a loop's body)."""
    order = as_ready(fused.kernels) if early else tuple(range(len(fused.kernels)))
    results, given_back = {fused.buffer[t] for t in outs}, {fused.buffer[t] for t in donated}
    length = len(first.ops) if first else 1
    starts = {n: (0 if not time else length + time - 1) if first else time for time, n in enumerate(order)}
    del starts
    held: list[Live] = list(first.held) if first else []
    out = 0
    for place in places(fused.kernels, order, fused.sizes, results | given_back):
        users = set(place.buffers)
        if users & given_back:
            continue
        if users & results:
            out += place.live.bytes
            continue
        shift = length - 1
        start = place.live.start + shift if place.live.start else 0
        held.append(Live(start, place.live.end + shift, place.live.bytes))
    ops = (*(first.ops if first else (fused.ops[order[0]],) if order else ()), *(fused.ops[n] for n in order[1:]))
    return Function(tuple(held), ops, out, packed(held))


def step_function(emitted: Emitted, *, early: bool) -> Function:
    """The step of a plan of one stage."""
    record, graph = emitted.record, emitted.given.graph
    whole = emitted.lowering(0)
    trained, merges = record.kind == "train", record.cluster.merges_all_reduces
    if record.microbatches == 1:
        for n in range(len(graph.ops)):
            whole.run(n)
        grads = [_sum(emitted, whole, p) for p in record.params] if trained else []
        outs = [whole.at[o.operand] for role in (Role.LOSS, Role.AUX) for o in graph.outputs_of(role)
                if isinstance(o.operand, int)]
        donated = [whole.at[o.operand] for o in graph.outputs_of(Role.STATE) if isinstance(o.operand, int)]
        if trained:
            donated += _update(emitted, whole.nodes, grads, 0)
        return function(fuse(whole.nodes, [*outs, *donated], merges_all_reduces=merges), outs, donated=donated,
                        early=early)
    body = _body(emitted, early=early)
    if not trained:
        return body
    after = Nodes()
    sums = after.add(Kind.HEAVY, [], [(_sum_bytes(emitted, p, 0), _sum_item(p)) for p in record.params], -1)
    grads = [_finished(emitted, after, p, t, 0) for p, t in zip(record.params, sums, strict=True)]
    donated = _update(emitted, after, grads, 0)
    fused = fuse(after, donated, merges_all_reduces=merges)
    done = function(fused, (), donated=donated, first=body, early=early)
    return replace(done, out_bytes=done.out_bytes + body.out_bytes)


def _body(emitted: Emitted, *, early: bool) -> Function:
    """The body of the loop over microbatches. What it carries lies outside."""
    record, graph = emitted.record, emitted.given.graph
    body = emitted.lowering(0)
    for i in graph.inputs_of(Role.BATCH):
        typed = graph.values[i.value]
        size = shard_bytes(typed, body.spec(i.value), body.mesh_shape)
        stacked = body.nodes.given(size, itemsize(typed.dtype))
        body.at[i.value] = body.nodes.add(Kind.CHEAP, [stacked], [(size, itemsize(typed.dtype))], -1)[0]
    for n in range(len(graph.ops)):
        body.run(n)
    donated = [body.at[o.operand] for o in graph.outputs_of(Role.STATE) if isinstance(o.operand, int)]
    for p in record.params if record.kind == "train" else ():
        size, item = _sum_bytes(emitted, p, 0), _sum_item(p)
        carried, grad = body.nodes.given(size, item), _sum(emitted, body, p)
        donated.append(body.nodes.add(Kind.CHEAP, [carried, grad], [(size, item)], -1)[0])
    outs = [body.at[o.operand] for role in (Role.LOSS, Role.AUX) for o in graph.outputs_of(role)
            if isinstance(o.operand, int)]
    done = function(fuse(body.nodes, [*outs, *donated], merges_all_reduces=record.cluster.merges_all_reduces), outs,
                    donated=donated, early=early)
    return replace(done, out_bytes=done.out_bytes * record.microbatches)


def _sum(emitted: Emitted, into: Lowering, param: ParamPlan, stage: int = 0) -> int:
    """The gradient of a parameter from one microbatch, contributions added, in the sharding it is summed in."""
    graph = emitted.given.graph
    values = contributions(graph, param)
    size, item = _sum_bytes(emitted, param, stage), _sum_item(param)
    nodes, total = into.nodes, into.at[values[0]]
    if nodes.tensors[total].item < item:
        total = nodes.add(Kind.CHEAP, [total], [(item * nodes.tensors[total].elements, item)], -1)[0]
    for v in values[1:]:
        total = nodes.add(Kind.CHEAP, [total, into.at[v]], [(nodes.tensors[total].bytes, item)], -1)[0]
    if emitted.record.microbatches == 1:
        return _finished(emitted, nodes, param, total, stage, into.spec(values[0]))
    if nodes.tensors[total].bytes != size:
        total = nodes.add(Kind.CHEAP, [total], [(size, item)], -1)[0]
    return total


def _sum_item(param: ParamPlan) -> int:
    """Bytes of an element of a gradient sum: 16-bit gradients are summed in float32."""
    return max(itemsize(param.dtype), 4)


def _sum_bytes(emitted: Emitted, param: ParamPlan, stage: int) -> int:
    """Bytes of the sum of a gradient over microbatches, leading dimensions included."""
    graph, mesh = emitted.given.graph, emitted.record.stages[stage].mesh_shape
    value = graph.values[contributions(graph, param)[0]]
    wide = replace(value, dtype="float32") if itemsize(param.dtype) < 4 else replace(value, dtype=param.dtype)
    return shard_bytes(wide, settled_spec(emitted.given, param, stage), mesh)


def _finished(emitted: Emitted, nodes: Nodes, param: ParamPlan, total: int, stage: int, now: Spec | None = None) -> int:
    """The gradient that the optimizer sees, of a sum: parts added up over devices, in the update's sharding."""
    given, record = emitted.given, emitted.record
    mesh = record.stages[stage].mesh_shape
    leads = lead_count(given, param, contributions(given.graph, param)[0])
    settled = now if now is not None else settled_spec(given, param, stage)
    partial = frozenset(a for axes in settled[:leads] for a in axes)
    graph = Graph((replace(given.graph.values[param.value], shape=param.shape, dtype=param.dtype),), (), (), ())
    move = Lowering(graph, mesh, lambda _: (), lambda _: (), lambda *_: None,
                    scatters=not record.cluster.reduce_scatter_as_all_reduce, nodes=nodes)
    return move.moved(total, graph.values[0], settled[leads:], final_spec(given, param, stage), partial, -1)


def _update(emitted: Emitted, nodes: Nodes, grads: Sequence[int], stage: int) -> list[int]:
    """The weight update of a stage of one; the new parameters and optimizer state."""
    record, program = emitted.record, emitted.program
    graph = program.update
    assert graph is not None
    specs = update_specs(record, graph)
    given = Annotated(graph, (stage,) * len(graph.ops), ({},) * stage + (specs,), {})
    low = lowering(given, infer(given, stage), stage, record)
    low.nodes = nodes
    stored = {(p.path, p.row): p for p in record.params}
    for i, t in zip(graph.inputs_of(Role.GRAD), grads, strict=True):
        low.at[i.value] = t
    for i in graph.inputs_of(Role.PARAM):
        p = stored[i.path, i.row]
        value = graph.values[i.value]
        t = nodes.given(shard_bytes(value, p.spec, low.mesh_shape), itemsize(value.dtype))
        low.at[i.value] = low.moved(t, value, p.spec, p.update_spec, frozenset(), -1)
    for n in range(len(graph.ops)):
        low.run(n)
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


def update_specs(record: PlanRecord, graph: Graph) -> Mapping[int, Spec]:
    """Value of the update graph -> the sharding that the update works in."""
    planned = {(p.path, p.row): p.update_spec for p in record.params}
    found: dict[int, Spec] = {}
    for i in graph.inputs:
        if i.role in (Role.PARAM, Role.GRAD):
            found[i.value] = planned[i.path, i.row]
    for out in graph.outputs:
        if isinstance(out.operand, int) and out.role is Role.PARAM:
            found[out.operand] = planned[out.path, out.row]
    leaves = tuple(graph.inputs_of(Role.OPT_STATE))
    for leaf, where in zip(leaves, opt_state_places(record, graph, leaves), strict=True):
        found[leaf.value] = where.spec
    ends = tuple(graph.outputs_of(Role.OPT_STATE))
    for out, where in zip(ends, opt_state_places(record, graph, leaves), strict=True):
        if isinstance(out.operand, int):
            found.setdefault(out.operand, where.spec)
    return found


