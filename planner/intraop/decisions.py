"""A layer's chosen indices in words the emitter knows: specs, uses, parameters, communications, bytes.

In: a `PricedLayer` of the layer's class and the choice per variable. Out: `LayerDecisions` in the values and operators
of the representative layer; `rename` moves them to another layer of the class.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.core.graph import Graph, Phase
from planner.core.plan import GATHER_OF, GRADIENT_OF, OPERAND, RESULT, Collective
from planner.core.recomputation import Recompute
from planner.core.spec import Spec, replicated, shard_count
from planner.costs.collectives import when_merged
from planner.costs.memory import itemsize, sum_itemsize
from planner.costs.resharding import reshard_steps
from planner.intraop.choices import Link
from planner.intraop.group_price import GroupPrice
from planner.intraop.joint_sums import contributions
from planner.intraop.listed import Place, listed
from planner.intraop.price import PricedLayer
from planner.intraop.repeated import finished_sums, halo_moves, repeated, where
from planner.program_index import ProgramIndex


@dataclass(frozen=True, slots=True)
class ParamDecision:
    """Storage spec, update spec and gradient timing of one parameter; bytes per device by kind."""

    value: int
    path: str
    row: int | None
    spec: Spec
    update_spec: Spec
    deferred: bool
    home: bool
    params_bytes: float
    opt_state_bytes: float


@dataclass(frozen=True)
class LayerDecisions:
    """`tensors`: owner -> settled spec; `wanted`: (value, op, position) -> spec an operator works with; `exported`:
    spec of values of parameter chains; `grads`: (gradient value, spec) synchronised every microbatch; `grads_bytes` per
    device; `repeated`: communications beside `collectives`, for what is run again; `kept`: the values that stay where
    selected tensors are recomputed."""

    tensors: tuple[tuple[int, Spec], ...]
    wanted: tuple[tuple[int, int, int, Spec], ...]
    exported: tuple[tuple[int, Spec], ...]
    grads: tuple[tuple[int, Spec], ...]
    params: tuple[ParamDecision, ...]
    grads_bytes: float
    collectives: tuple[Collective, ...]
    repeated: tuple[Collective, ...]
    kept: tuple[int, ...] = ()

    def rename(self, value: Mapping[int, int], op: Mapping[int, int], names: Mapping[int, tuple[str, int | None]]
               ) -> "LayerDecisions":
        """The same decisions for another layer of the class; `names` gives its parameters' paths and rows."""
        def v(x: int) -> int:
            return value.get(x, x)

        return LayerDecisions(
            tuple((v(o), s) for o, s in self.tensors), tuple((v(x), op[n], i, s) for x, n, i, s in self.wanted),
            tuple((v(x), s) for x, s in self.exported), tuple((v(x), s) for x, s in self.grads),
            tuple(ParamDecision(v(p.value), *names[v(p.value)], p.spec, p.update_spec, p.deferred, p.home,
                                p.params_bytes, p.opt_state_bytes) for p in self.params),
            self.grads_bytes, self.collectives, self.repeated, tuple(sorted(v(x) for x in self.kept)))


def decide(index: ProgramIndex, layer: PricedLayer, choice: NDArray[np.int16], way: Recompute) -> LayerDecisions:
    """Spell out a choice of a layer that is recomputed in that way."""
    graph = index.program.micro
    tensors: list[tuple[int, Spec]] = []
    wanted: list[tuple[int, int, int, Spec]] = []
    grads: list[tuple[int, Spec]] = []
    moves: list[Collective] = []
    for item, tensor in enumerate(layer.model.tensors):
        pick = int(choice[layer.tensor_variable(item)])
        tensors.append((tensor.owner, layer.tensors[item][pick]))
        moves += _joint_sum(index, layer, item, pick)
    for g, price in enumerate(layer.prices):
        moves += _inside(graph, price, int(choice[g]))
    for link in layer.model.links:
        price, row = layer.prices[link.group], int(choice[link.group])
        wanted += [(r.value, r.op, r.position, price.strategies.spec(row, price.dims(r.value))) for r in link.reads]
        moves += _tensor_moves(index, link, layer, price, row, int(choice[layer.tensor_variable(link.item)]))
    grads_bytes = 0.0
    exported: list[tuple[int, Spec]] = []
    for link in layer.model.param_links:
        price, row = layer.prices[link.group], int(choice[link.group])
        wanted += [(r.value, r.op, r.position, price.strategies.spec(row, price.dims(r.value))) for r in link.reads
                   if index.owner.get(r.value, r.value) == r.value]
        pick = int(choice[layer.param_variable(link.item)])
        grads_bytes += float(layer.edges[link.group, layer.param_variable(link.item)]["resident_bytes"][row, pick])
        moves += _param_moves(index, link, layer, price, row, pick)
        grads += _grad_specs(index, link, layer, pick)
    selected = layer.model.selection if way is Recompute.SELECTED else None
    kept = tuple(sorted(selected.kept)) if selected is not None else ()
    params: list[ParamDecision] = []
    for item, param in enumerate(layer.model.params):
        pick = int(choice[layer.param_variable(item)])
        params.append(_param(graph, layer, item, pick))
        moves += _updated_gathers(graph, layer, item, params[-1])
        stored = layer.params[item].stored
        for e in param.exported:
            if e != param.value:
                dims = param.classes.dims(e, len(graph.values[e].shape))
                exported.append((e, stored.spec(pick, dims)))
    return LayerDecisions(tuple(tensors), tuple(wanted), tuple(exported), tuple(grads), tuple(params), grads_bytes,
                          tuple(moves), tuple(repeated(index, layer, choice, way)), kept)


def _param(graph: Graph, layer: PricedLayer, item: int, pick: int) -> ParamDecision:
    param, choices, mesh = layer.model.params[item], layer.params[item], layer.setting.mesh
    value = graph.values[param.value]
    dims = param.classes.dims(param.value, len(value.shape))
    spec, update = choices.stored.spec(pick, dims), choices.update.spec(pick, dims)
    held = float(layer.unary[layer.param_variable(item)]["resident_bytes"][pick])
    opt = param.opt_state_bytes / shard_count(update, mesh.shape) if param.home and layer.setting.training else 0.0
    return ParamDecision(param.value, param.path, param.row, spec, update, bool(choices.deferred[pick]), param.home,
                         held - opt, opt)


def _updated_gathers(graph: Graph, layer: PricedLayer, item: int, made: ParamDecision) -> list[Collective]:
    """Bringing an updated parameter from the shards of its update to where it is stored (ZeRO)."""
    if not (layer.setting.training and made.home):
        return []
    value, param = graph.values[made.value], layer.model.params[item]
    name = param.path if param.row is None else f"{param.path}[{param.row}]"
    steps = reshard_steps(value.shape, itemsize(value.dtype), made.update_spec, made.spec, layer.setting.mesh)
    return listed(steps, Place("batch", Phase.UPDATE.value, f"{GATHER_OF}{name}", RESULT), made.update_spec, made.spec)


def _inside(graph: Graph, price: GroupPrice, row: int) -> list[Collective]:
    found = [c for _, c in (*finished_sums(graph, price, row), *halo_moves(graph, price, row))]
    for value in price.handed_back:
        typed = graph.values[value]
        made, whole = price.strategies.spec(row, price.dims(value)), replicated(len(typed.shape))
        steps = reshard_steps(typed.shape, itemsize(typed.dtype), made, whole, price.setting.mesh,
                              partial=frozenset(price.pending_axes(value, row)))
        found += listed(steps, Place("microbatch", Phase.FORWARD.value, where(graph, price.group.ops), RESULT), made,
                        whole)
    return found


def _tensor_moves(index: ProgramIndex, link: Link, layer: PricedLayer, price: GroupPrice, row: int, pick: int
                  ) -> list[Collective]:
    """What moves between a tensor and a group, but for contributions that are combined with those of other groups."""
    graph, mesh, owner = index.program.micro, layer.setting.mesh, layer.model.tensors[link.item].owner
    shape, settled = graph.values[owner].shape, layer.tensors[link.item][pick]
    joint = contributions(graph, link, owner) if layer.origins[link.item][pick] is not None else []
    found: list[Collective] = []
    seen: set[tuple[int, bool]] = set()
    for read in sorted(link.reads, key=lambda r: r.op):
        fetch = (read.value, layer.setting.apart and graph.ops[read.op].phase is Phase.BACKWARD)
        if fetch not in seen:
            seen.add(fetch)
            wanted = price.strategies.spec(row, price.dims(read.value))
            steps = reshard_steps(shape, itemsize(graph.values[read.value].dtype), settled, wanted, mesh)
            found += listed(steps, Place("microbatch", graph.ops[read.op].phase.value, where(graph, price.group.ops),
                                         OPERAND), settled, wanted)
    for value, op in link.makes:
        phase = graph.ops[op].phase
        if (phase is Phase.BACKWARD) == (value != owner) and value not in joint:
            made = price.strategies.spec(row, price.dims(value))
            steps = reshard_steps(shape, itemsize(graph.values[value].dtype), made, settled, mesh,
                                  partial=frozenset(price.pending_axes(value, row)))
            found += listed(steps, Place("microbatch", phase.value, where(graph, price.group.ops), RESULT), made,
                            settled)
    return found


def _joint_sum(index: ProgramIndex, layer: PricedLayer, item: int, pick: int) -> list[Collective]:
    """How the sum of all contributions to a cotangent is combined, where it is combined as one."""
    graph, tensor, origin = index.program.micro, layer.model.tensors[item], layer.origins[item][pick]
    if origin is None:
        return []
    made = [op for link in layer.model.links if link.item == item for value, op in link.makes
            if value in contributions(graph, link, tensor.owner)]
    value = graph.values[tensor.owner]
    steps = reshard_steps(value.shape, itemsize(value.dtype), origin[0], layer.tensors[item][pick], layer.setting.mesh,
                          partial=origin[1])
    return listed(steps, Place("microbatch", Phase.BACKWARD.value, where(graph, made), RESULT), origin[0],
                  layer.tensors[item][pick])


def _param_moves(index: ProgramIndex, link: Link, layer: PricedLayer, price: GroupPrice, row: int, pick: int
                 ) -> list[Collective]:
    graph, mesh = index.program.micro, layer.setting.mesh
    param, choices = layer.model.params[link.item], layer.params[link.item]
    found: list[Collective] = []
    seen: set[tuple[int, str]] = set()
    name = param.path if param.row is None else f"{param.path}[{param.row}]"
    for read in link.reads:
        phase = graph.ops[read.op].phase
        if index.owner.get(read.value, read.value) != read.value or (read.value, phase.value) in seen:
            continue
        seen.add((read.value, phase.value))
        value = graph.values[read.value]
        stored = choices.stored.spec(pick, param.classes.dims(read.value, len(value.shape)))
        wanted = price.strategies.spec(row, price.dims(read.value))
        steps = reshard_steps(value.shape, itemsize(value.dtype), stored, wanted, mesh)
        found += listed(steps, Place("microbatch", phase.value, f"{GATHER_OF}{name}", OPERAND), stored, wanted)
    for value, op in link.makes:
        if graph.ops[op].phase is not Phase.BACKWARD or value in layer.joined:
            continue
        typed, own = graph.values[value], index.owner.get(value, value)
        target = choices.update.spec(pick, param.classes.dims(own, len(typed.shape)))
        per = "batch" if choices.deferred[pick] else "microbatch"
        item = sum_itemsize(graph.values[param.value].dtype) if choices.deferred[pick] else itemsize(typed.dtype)
        made = price.strategies.spec(row, price.dims(value))
        steps = reshard_steps(typed.shape, item, made, target, when_merged(mesh),
                              partial=frozenset(price.pending_axes(value, row)))
        found += listed(steps, Place(per, Phase.BACKWARD.value, f"{GRADIENT_OF}{name}", RESULT), made, target)
    return found


def _grad_specs(index: ProgramIndex, link: Link, layer: PricedLayer, pick: int) -> list[tuple[int, Spec]]:
    graph = index.program.micro
    param, choices = layer.model.params[link.item], layer.params[link.item]
    if choices.deferred[pick]:
        return []
    found: list[tuple[int, Spec]] = []
    for value, op in link.makes:
        if graph.ops[op].phase is Phase.BACKWARD:
            own = index.owner.get(value, value)
            dims = param.classes.dims(own, len(graph.values[value].shape))
            found.append((value, choices.update.spec(pick, dims)))
    return found
