"""Prices of a layer's choices on one logical mesh: arrays of seconds and bytes per choice and per pair of choices.

In: a `LayerModel`, a `LogicalMesh` and what each mesh axis may be used for. Out: a `PricedLayer` with, for every
variable (groups, then tensors, then parameters), its strategies and an array per kind of cost (`setting.Costs`), and
the same for links.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from planner.core.graph import Graph, Phase
from planner.core.spec import Spec, shard_count
from planner.costs.collectives import when_merged
from planner.costs.memory import itemsize, sum_itemsize, value_bytes
from planner.costs.resharding import reshard_table
from planner.intraop.again import hold_inside, link_again, second_copy
from planner.intraop.choices import Group, LayerModel, Link, Param, Tensor
from planner.intraop.flat_costs import FlatCosts, flat_costs
from planner.intraop.group_price import GroupPrice
from planner.intraop.halos import outdone
from planner.intraop.joint_sums import Origin, TensorChoices, contributions, joined, joint_cost, tensor_choices
from planner.intraop.param_costs import ParamChoices, param_choices, param_unary
from planner.intraop.setting import MAX_CLASSES, Array, Costs, Setting
from planner.program_index import ProgramIndex
from planner.strategies import Strategies, allowed_classes, enumerate_strategies, forced_axes

CONTRACTIONS = frozenset({"dot_general", "ragged_dot", "ragged_dot_general", "conv_general_dilated"})


@dataclass(frozen=True)
class PricedLayer:
    """Variables are numbered groups first, then tensors, then parameters. A tensor's choice is a spec and the origin of
    its cotangent; `tensors` and `origins` say both, per choice. `joined` are gradients that are added to another
    contribution to the same parameter and combined with it."""

    model: LayerModel
    setting: Setting
    groups: tuple[Strategies, ...]
    tensors: tuple[tuple[Spec, ...], ...]
    origins: tuple[tuple[Origin | None, ...], ...]
    params: tuple[ParamChoices, ...]
    unary: tuple[Costs, ...]
    edges: Mapping[tuple[int, int], Costs]
    prices: tuple[GroupPrice, ...]
    joined: frozenset[int] = frozenset()

    @cached_property
    def flat(self) -> FlatCosts:
        """All costs in one array."""
        return flat_costs([len(c) for c in (*self.groups, *self.tensors, *self.params)], self.unary, self.edges)

    @cached_property
    def asked(self) -> dict[Hashable, Any]:
        """What is found out about the layer whatever the prices of memory."""
        return {}

    def tensor_variable(self, item: int) -> int:
        return len(self.groups) + item

    def param_variable(self, item: int) -> int:
        return len(self.groups) + len(self.tensors) + item


def price_layer(index: ProgramIndex, model: LayerModel, setting: Setting) -> PricedLayer:
    """Price every choice of the layer. See the module."""
    graph = index.program.micro
    shape = setting.mesh.shape
    weights = _weight_classes(index, model)
    groups = tuple(_group_strategies(index, g, w, setting) for g, w in zip(model.groups, weights, strict=True))
    params = tuple(param_choices(p, setting.uses, shape, deferrable=setting.training and setting.microbatches > 1,
                                 pinned=setting.pins.get(p.value)) for p in model.params)
    priced = [GroupPrice(index, g, s, setting, model.selection) for g, s in zip(model.groups, groups, strict=True)]
    hold_inside(graph, model, priced)
    tensors = _tensor_choices(index, model, priced, setting)
    unary = [p.costs for p in priced]
    unary += [_tensor_costs(graph, t, c, model, setting) for t, c in zip(model.tensors, tensors, strict=True)]
    unary += [param_unary(graph, p, c, setting.mesh, setting.device, training=setting.training)
              for p, c in zip(model.params, params, strict=True)]
    edges: dict[tuple[int, int], Costs] = {}
    for link in model.links:
        owner = model.tensors[link.item].owner
        costs = _link_costs(index, link, owner, priced[link.group], tensors[link.item], setting)
        if model.selection is not None:
            costs |= link_again(graph, link, owner, priced[link.group], tensors[link.item].specs, model.selection)
        _add_edge(edges, (link.group, len(groups) + link.item), costs)
    for link in model.param_links:
        costs = _param_link_costs(index, link, model.params[link.item], params[link.item], priced[link.group], setting)
        _add_edge(edges, (link.group, len(groups) + len(tensors) + link.item), costs)
    return PricedLayer(model, setting, groups, tuple(t.specs for t in tensors), tuple(t.origins for t in tensors),
                       params, tuple(unary), edges, tuple(priced))


@dataclass(frozen=True)
class Shared:
    """What a layer does of a parameter that others of its stage read as well: `choices` are what it may choose of it,
    `elsewhere` says that another holds it; gradients `added` go to a sum that another holds, `joined` are combined with
    that."""

    choices: ParamChoices
    elsewhere: bool
    added: frozenset[int]
    joined: frozenset[int]


def with_shared(index: ProgramIndex, layer: PricedLayer, item: int, shared: Shared) -> PricedLayer:
    """The layer with one parameter priced as shared."""
    setting, model, at = layer.setting, layer.model, layer.param_variable(item)
    param, unary, params = model.params[item], list(layer.unary), list(layer.params)
    params[item] = shared.choices
    nothing = np.zeros(len(shared.choices))
    unary[at] = {"resident_bytes": nothing, "batch_s": nothing} if shared.elsewhere else param_unary(
        index.program.micro, param, shared.choices, setting.mesh, setting.device, training=setting.training)
    edges = {key: costs for key, costs in layer.edges.items() if at not in key}
    for link in model.param_links:
        if link.item == item:
            _add_edge(edges, (link.group, at), _param_link_costs(index, link, param, shared.choices,
                                                                 layer.prices[link.group], setting, shared))
    return replace(layer, params=tuple(params), unary=tuple(unary), edges=edges, joined=layer.joined | shared.joined)


def _add_edge(edges: dict[tuple[int, int], Costs], key: tuple[int, int], costs: Costs) -> None:
    if key in edges:
        costs = {k: edges[key].get(k, 0.0) + costs.get(k, 0.0) for k in {*edges[key], *costs}}  # type: ignore[dict-item]
    edges[key] = costs


def _weight_classes(index: ProgramIndex, model: LayerModel) -> list[frozenset[int]]:
    """Per group, the classes of the dimensions of weights that its contractions read."""
    found: list[set[int]] = [set() for _ in model.groups]
    for link in model.param_links:
        of = model.groups[link.group].classes.of
        for read in link.reads:
            if index.program.micro.ops[read.op].primitive in CONTRACTIONS:
                own = index.owner.get(read.value, read.value)
                rank = len(index.program.micro.values[read.value].shape)
                found[link.group] |= {of[own, d] for d in range(rank) if (own, d) in of}
    return [frozenset(classes) for classes in found]


def _group_strategies(index: ProgramIndex, group: Group, weights: frozenset[int], setting: Setting) -> Strategies:
    classes = group.classes
    weight: dict[int, int] = {}
    for (value, d), c in classes.of.items():
        if classes.size[c] > 1:
            weight[c] = weight.get(c, 0) + index.program.micro.values[value].shape[d]
    batch = frozenset(c for key, c in classes.of.items() if key in index.batch_dims)
    left_out = frozenset[int]() if setting.pins else outdone(index, group, batch, setting.mesh.shape)
    largest = sorted(weight.keys() - left_out, key=lambda c: (-weight[c], c))[: setting.max_classes]
    free = sorted({*largest, *(b for b in batch if classes.size[b] > 1)})
    if setting.max_classes >= MAX_CLASSES:
        free += [c for o in classes.ops for c in o.reduced if classes.size[c] > 1 and c not in {*free, *left_out}]
    contraction = any(index.program.micro.ops[n].primitive in CONTRACTIONS for n in group.ops)
    allowed = allowed_classes(sorted(set(free)), batch, setting.uses)
    return enumerate_strategies(classes.size, setting.mesh.shape, allowed,
                                forced_axes(setting.uses, contraction=contraction, weights=weights))


def _tensor_specs(index: ProgramIndex, tensor: Tensor, setting: Setting) -> tuple[Spec, ...]:
    if tensor.owner in setting.pins:
        return (setting.pins[tensor.owner],)
    shape = index.program.micro.values[tensor.owner].shape
    batch = frozenset(d for d in range(len(shape)) if (tensor.owner, d) in index.batch_dims)
    largest = sorted(range(len(shape)), key=lambda d: (d not in batch, -shape[d], d))[: setting.max_classes]
    allowed = allowed_classes(sorted(largest), batch, setting.uses)
    return enumerate_strategies(shape, setting.mesh.shape, allowed).specs(tuple(range(len(shape))))[0]


def _tensor_choices(index: ProgramIndex, model: LayerModel, priced: Sequence[GroupPrice], setting: Setting
                    ) -> tuple[TensorChoices, ...]:
    makers: list[list[tuple[Link, GroupPrice]]] = [[] for _ in model.tensors]
    for link in model.links:
        makers[link.item].append((link, priced[link.group]))
    return tuple(tensor_choices(index.program.micro, t, _tensor_specs(index, t, setting), m, setting.mesh)
                 for t, m in zip(model.tensors, makers, strict=True))


def _tensor_costs(graph: Graph, tensor: Tensor, choices: TensorChoices, model: LayerModel, setting: Setting) -> Costs:
    whole = value_bytes(graph.values[tensor.owner])
    held = np.array([whole / shard_count(s, setting.mesh.shape) for s in choices.specs])
    costs: Costs = {"backward_s": joint_cost(graph, tensor, choices, setting.mesh)}
    if tensor.resident:
        costs["resident_bytes"] = held
    elif tensor.saved and tensor.made_here and setting.keeps:
        costs["saved_bytes"] = held
    if model.selection is not None and tensor.owner in model.selection.kept and tensor.made_here \
            and tensor.place != "out":  # what is handed on is counted in every recomputed layer
        costs["kept_bytes"] = held
    return costs


def _link_costs(index: ProgramIndex, link: Link, owner: int, price: GroupPrice, choices: TensorChoices,
                setting: Setting) -> Costs:
    """Resharding between the spec a tensor settles in and the one a group works with, cotangents included."""
    graph, mesh, specs = index.program.micro, setting.mesh, choices.specs
    added = contributions(graph, link, owner)
    costs = {k: np.zeros((len(price.strategies), len(specs))) for k in ("forward_s", "backward_s", "saved_bytes")}
    shape = graph.values[owner].shape
    fetched: set[tuple[int, bool]] = set()
    saved_again = False
    for read in sorted(link.reads, key=lambda r: r.op):
        backward = graph.ops[read.op].phase is Phase.BACKWARD
        fetch = (read.value, backward and setting.apart)
        if fetch in fetched:
            saved_again |= backward and read.value == owner and not setting.apart
            continue
        fetched.add(fetch)
        wanted, row = price.required(read.value)
        table = reshard_table(shape, itemsize(graph.values[read.value].dtype), specs, wanted, mesh)
        costs["backward_s" if backward else "forward_s"] += table.T[row]
    if saved_again and setting.training:
        costs["saved_bytes"] += second_copy(graph, owner, price, specs, mesh)
    for value, op in link.makes:
        backward = graph.ops[op].phase is Phase.BACKWARD
        if backward != (value != owner):
            continue
        made, partials, row = price.produced(value)
        table = reshard_table(shape, itemsize(graph.values[value].dtype), made, specs, mesh, partials=partials)[row]
        costs["backward_s" if backward else "forward_s"] += joined(price, value, choices, table) if value in added \
            else table
    return costs


def _param_link_costs(index: ProgramIndex, link: Link, param: Param, choices: ParamChoices, price: GroupPrice,
                      setting: Setting, shared: Shared | None = None) -> Costs:
    """Gathering a parameter where it is used (in forward and again in backward), and combining its gradient."""
    graph, mesh = index.program.micro, setting.mesh
    size = (len(price.strategies), len(choices))
    costs = {k: np.zeros(size) for k in ("forward_s", "backward_s", "batch_s", "resident_bytes", "sync_bytes",
                                         "again_s")}
    fetched: set[tuple[int, bool]] = set()
    late = {r.value for r in link.reads if graph.ops[r.op].phase is Phase.BACKWARD}
    for read in link.reads:
        if index.owner.get(read.value, read.value) != read.value:
            continue
        backward = graph.ops[read.op].phase is Phase.BACKWARD
        if (read.value, backward) in fetched:
            continue
        fetched.add((read.value, backward))
        value = graph.values[read.value]
        stored, at = choices.stored_specs(param.classes, read.value, len(value.shape))
        wanted, row = price.required(read.value)
        table = reshard_table(value.shape, itemsize(value.dtype), stored, wanted, mesh)
        _add_time(costs, "backward_s" if backward else "forward_s", table.T[row[:, None], at],
                  setting.overlap.parameter_gather)
        if read.value not in late and any(r.op in price.again for r in link.reads if r.value == read.value):
            costs["again_s"] = costs["again_s"] + table.T[row[:, None], at]
    for value, op in link.makes:
        if graph.ops[op].phase is not Phase.BACKWARD:
            continue
        typed = graph.values[value]
        own = index.owner.get(value, value)
        target, at = choices.update_specs(param.classes, own, len(typed.shape))
        made, partials, row = price.produced(value)
        summed_item = sum_itemsize(graph.values[param.value].dtype)
        once, each = (reshard_table(typed.shape, item, made, target, when_merged(mesh), partials=partials)
                      [row[:, None], at] for item in (summed_item, itemsize(typed.dtype)))
        deferred = choices.deferred[None, :]
        if shared is not None and value in shared.joined:
            continue
        _add_time(costs, "batch_s", np.where(deferred, once, 0.0), setting.overlap.gradient_sync)
        _add_time(costs, "backward_s", np.where(deferred, 0.0, each), setting.overlap.gradient_sync)
        if shared is not None and value in shared.added:
            continue
        held = value_bytes(graph.values[param.value])
        if setting.microbatches > 1:
            held = held * summed_item // itemsize(graph.values[param.value].dtype)
        local = held / np.array([shard_count(s, mesh.shape) for s in made])[row]
        settled = held / np.array([shard_count(s, mesh.shape) for s in target])[at]
        kept = np.where(deferred, local[:, None], settled[None, :])
        costs["resident_bytes"] += kept
        if mesh.merges_all_reduces:  # then every gradient is alive twice, as it goes in and as it comes out
            summed = np.array([bool(p) for p in partials])[row]
            costs["sync_bytes"] += np.where(summed[:, None], 2 * local[:, None] - kept, 0.0)
    return costs


def _add_time(costs: Costs, kind: str, seconds: Array, fraction: float) -> None:
    """Add seconds of which a fraction may hide."""
    costs[kind] = costs[kind] + (1 - fraction) * seconds
    if fraction:
        costs[f"hidden_{kind}"] = costs.get(f"hidden_{kind}", np.zeros_like(seconds)) + fraction * seconds
