"""Prices of a layer's choices on one logical mesh: arrays of seconds and bytes per choice and per pair of choices.

In: a `LayerModel`, a `LogicalMesh` and what each mesh axis may be used for. Out: a `PricedLayer` with, for every
variable (groups, then tensors, then parameters), its strategies and an array per kind of cost (`KINDS`), and the same
for links.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from planner.core.graph import Graph, Phase
from planner.core.hardware import Device, LogicalMesh
from planner.core.spec import Spec, shard_count
from planner.costs.collectives import ALL_REDUCE, collective
from planner.costs.memory import itemsize, value_bytes
from planner.costs.resharding import reshard_table
from planner.intraop.dims import OpClasses
from planner.intraop.group_costs import LINEAR, op_work
from planner.intraop.param_costs import ParamChoices, param_choices, param_unary
from planner.intraop.structure import ANCHORS, Group, LayerModel, Link, Param, ProgramIndex, Tensor
from planner.strategies import AxisUse, Strategies, allowed_classes, enumerate_strategies, forced_axes

Array = NDArray[np.float64]

KINDS = ("forward_s", "backward_s", "batch_s", "resident_bytes", "saved_bytes")
"""Per microbatch forward and backward seconds; seconds once per batch; bytes held all the time; bytes per microbatch in
flight."""

Costs = dict[str, Array]

MAX_CLASSES = 7
"""Classes of a group, or dimensions of a tensor, that may be sharded; beyond this the smallest stay unsharded, so that
strategies stay countable. [chosen: no model of the zoo has more that matter]"""


@dataclass(frozen=True)
class Setting:
    """Where and how a layer is priced."""

    mesh: LogicalMesh
    device: Device
    uses: tuple[AxisUse, ...]
    microbatches: int
    training: bool
    pins: Mapping[int, Spec] = field(default_factory=dict)  # owner of a tensor or parameter -> its spec
    keeps: bool = True  # whether tensors marked as saved are (all but inference)
    max_classes: int = MAX_CLASSES


@dataclass(frozen=True)
class PricedLayer:
    """Variables are numbered groups first, then tensors, then parameters."""

    model: LayerModel
    setting: Setting
    groups: tuple[Strategies, ...]
    tensors: tuple[tuple[Spec, ...], ...]
    params: tuple[ParamChoices, ...]
    unary: tuple[Costs, ...]
    edges: Mapping[tuple[int, int], Costs]
    prices: tuple["GroupPrice", ...]

    def tensor_variable(self, item: int) -> int:
        return len(self.groups) + item

    def param_variable(self, item: int) -> int:
        return len(self.groups) + len(self.tensors) + item


def price_layer(index: ProgramIndex, model: LayerModel, setting: Setting) -> PricedLayer:
    """Price every choice of the layer. See the module."""
    graph = index.program.micro
    shape = setting.mesh.shape
    groups = tuple(_group_strategies(index, g, setting) for g in model.groups)
    tensors = tuple(_tensor_specs(index, t, setting) for t in model.tensors)
    params = tuple(param_choices(p, setting.uses, shape, deferrable=setting.training and setting.microbatches > 1,
                                 pinned=setting.pins.get(p.value)) for p in model.params)
    priced = [GroupPrice(index, g, s, setting) for g, s in zip(model.groups, groups, strict=True)]
    unary = [p.costs for p in priced]
    unary += [_tensor_costs(graph, t, specs, setting) for t, specs in zip(model.tensors, tensors, strict=True)]
    unary += [param_unary(graph, p, c, setting.mesh, setting.device, training=setting.training)
              for p, c in zip(model.params, params, strict=True)]
    edges: dict[tuple[int, int], Costs] = {}
    for link in model.links:
        costs = _link_costs(index, link, model.tensors[link.item].owner, priced[link.group], tensors[link.item], setting)
        _add_edge(edges, (link.group, len(groups) + link.item), costs)
    for link in model.param_links:
        costs = _param_link_costs(index, link, model.params[link.item], params[link.item], priced[link.group], setting)
        _add_edge(edges, (link.group, len(groups) + len(tensors) + link.item), costs)
    return PricedLayer(model, setting, groups, tensors, params, tuple(unary), edges, tuple(priced))


def _add_edge(edges: dict[tuple[int, int], Costs], key: tuple[int, int], costs: Costs) -> None:
    if key in edges:
        costs = {k: edges[key].get(k, 0.0) + costs.get(k, 0.0) for k in {*edges[key], *costs}}  # type: ignore[dict-item]
    edges[key] = costs


CONTRACTIONS = frozenset({"dot_general", "ragged_dot", "ragged_dot_general", "conv_general_dilated"})


def _group_strategies(index: ProgramIndex, group: Group, setting: Setting) -> Strategies:
    classes = group.classes
    weight: dict[int, int] = {}
    for (value, d), c in classes.of.items():
        if classes.size[c] > 1:
            weight[c] = weight.get(c, 0) + index.program.micro.values[value].shape[d]
    largest = sorted(weight, key=lambda c: (-weight[c], c))[: setting.max_classes]
    batch = frozenset(c for key, c in classes.of.items() if key in index.batch_dims)
    free = [c for c in sorted({*largest, *(b for b in batch if classes.size[b] > 1)})]
    if setting.max_classes >= MAX_CLASSES:
        free += [c for o in classes.ops for c in o.reduced if classes.size[c] > 1 and c not in free]
    contraction = any(index.program.micro.ops[n].primitive in CONTRACTIONS for n in group.ops)
    return enumerate_strategies(classes.size, setting.mesh.shape, allowed_classes(sorted(set(free)), batch, setting.uses),
                                forced_axes(setting.uses, contraction=contraction))


def _tensor_specs(index: ProgramIndex, tensor: Tensor, setting: Setting) -> tuple[Spec, ...]:
    if tensor.owner in setting.pins:
        return (setting.pins[tensor.owner],)
    shape = index.program.micro.values[tensor.owner].shape
    batch = frozenset(d for d in range(len(shape)) if (tensor.owner, d) in index.batch_dims)
    largest = sorted(range(len(shape)), key=lambda d: (d not in batch, -shape[d], d))[: setting.max_classes]
    allowed = allowed_classes(sorted(largest), batch, setting.uses)
    return enumerate_strategies(shape, setting.mesh.shape, allowed).specs(tuple(range(len(shape))))[0]


def _tensor_costs(graph: Graph, tensor: Tensor, specs: tuple[Spec, ...], setting: Setting) -> Costs:
    held = np.array([value_bytes(graph.values[tensor.owner]) / shard_count(s, setting.mesh.shape) for s in specs])
    if tensor.resident:
        return {"resident_bytes": held}
    if tensor.saved and tensor.made_here and setting.keeps:
        return {"saved_bytes": held}
    return {"forward_s": np.zeros(len(specs))}


class GroupPrice:
    """Prices of one group per strategy, and what its links need: specs required and reductions pending.

    Reductions that the group itself must finish (a softmax over a sharded dimension) are priced inside; those pending
    on values it hands out are left to the link, where the receiver's sharding decides between all-reduce and
    reduce-scatter.
    """

    def __init__(self, index: ProgramIndex, group: Group, strategies: Strategies, setting: Setting) -> None:
        self.graph = index.program.micro
        self.owner = index.owner
        self.group = group
        self.strategies = strategies
        self.setting = setting
        self.costs: Costs = {k: np.zeros(len(strategies)) for k in ("forward_s", "backward_s", "saved_bytes")}
        self.working = np.zeros(len(strategies))
        self.pending: dict[int, NDArray[np.int64]] = {}
        self.settled: list[tuple[int, NDArray[np.int64], Phase]] = []  # (value, axes combined per strategy, phase)
        self._compute(index)
        self._reductions(index)
        self._saved()

    def dims(self, value: int) -> tuple[int | None, ...]:
        """The class of each dimension of a value."""
        own = self.owner.get(value, value)
        return tuple(self.group.classes.of.get((own, d)) for d in range(len(self.graph.values[value].shape)))

    def shards_of(self, value: int) -> Array:
        return self.strategies.shards([c for c in self.dims(value) if c is not None])

    def _compute(self, index: ProgramIndex) -> None:
        by_op = {o.op: o for o in self.group.classes.ops}
        for phase, kind in ((Phase.FORWARD, "forward_s"), (Phase.BACKWARD, "backward_s")):
            ops = [n for n in self.group.ops if (self.graph.ops[n].phase is Phase.BACKWARD) == (phase is Phase.BACKWARD)]
            heavy = [n for n in ops if self.graph.ops[n].primitive in ANCHORS]
            for n in heavy:
                self._heavy(n, by_op[n], kind)
            self._fused([n for n in ops if n not in set(heavy)], by_op, kind)

    def _heavy(self, n: int, classes: OpClasses, kind: str) -> None:
        work = op_work(self.graph, n)
        parts = self.strategies.shards(classes.factors)
        moved = sum(value_bytes(self.graph.values[v]) / self.shards_of(v) for v in _touched(self.graph, n))
        device = self.setting.device
        self.costs[kind] += np.maximum(work.flops / parts / device.flops_per_s(work.dtype),
                                       moved / device.memory_bandwidth_bytes_per_s) + device.launch_s * work.launches
        self.working = np.maximum(self.working, moved)

    def _fused(self, ops: Sequence[int], by_op: Mapping[int, OpClasses], kind: str) -> None:
        """Elementwise, layout and reduction operators run as fused kernels: bytes of what goes in and comes out."""
        if not ops:
            return
        mine = set(ops)
        made = {r for n in ops for r in self.graph.ops[n].results}
        used_inside = {v for n in ops for v in self.graph.ops[n].inputs}
        used_outside = {v for n in self.group.ops if n not in mine for v in self.graph.ops[n].inputs}
        outer = [v for v in sorted(used_inside - made)] + [v for v in sorted(made) if v not in used_inside or v in used_outside]
        reduces = sum(bool(by_op[n].reduced) for n in ops)
        moved = sum((value_bytes(self.graph.values[v]) / self.shards_of(v) for v in outer), np.zeros(len(self.strategies)))
        device = self.setting.device
        arithmetic, quiet = np.zeros(len(self.strategies)), not reduces
        for n in ops:
            work, parts = op_work(self.graph, n), self.strategies.shards(by_op[n].factors)
            arithmetic = arithmetic + work.flops / parts / device.flops_per_s("default")
            if device.transcendentals_per_s is not None:
                arithmetic = arithmetic + work.transcendentals / parts / device.transcendentals_per_s
            quiet = quiet and work.flops == 0
        if not quiet:
            self.costs[kind] += np.maximum(arithmetic, moved / device.memory_bandwidth_bytes_per_s) \
                + device.launch_s * (1 + reduces)
        self.working = np.maximum(self.working, moved)

    def _reductions(self, index: ProgramIndex) -> None:
        by_op = {o.op: o for o in self.group.classes.ops}
        for n in self.group.ops:
            op = self.graph.ops[n]
            mask = self.strategies.axes_on(by_op[n].reduced)
            kind = "backward_s" if op.phase is Phase.BACKWARD else "forward_s"
            for v in op.inputs:
                waiting = self.pending.get(v)
                if waiting is None or not waiting.any():
                    continue
                if op.primitive in LINEAR:
                    mask = mask | waiting
                else:
                    self._settle(v, kind)
            for r in op.results:
                self.pending[r] = mask
            if index.rules[n].combine != "sum":
                for r in op.results:
                    self._settle(r, kind)

    def _settle(self, value: int, kind: str) -> None:
        mask = self.pending[value]
        local = value_bytes(self.graph.values[value]) / self.shards_of(value)
        for m in np.unique(mask):
            if m:
                rows = mask == m
                cost = collective(ALL_REDUCE, _axes(int(m)), self.setting.mesh)
                self.costs[kind][rows] += cost.fixed_s + cost.per_byte_s * local[rows]
        self.settled.append((value, mask, Phase.BACKWARD if kind == "backward_s" else Phase.FORWARD))
        self.pending[value] = np.zeros_like(mask)

    def _saved(self) -> None:
        """Values made in the forward part that only this group's backward part reads."""
        if not self.setting.training:
            return
        made = {r for n in self.group.ops if self.graph.ops[n].phase is Phase.FORWARD for r in self.graph.ops[n].results}
        kept = {v for n in self.group.ops if self.graph.ops[n].phase is Phase.BACKWARD for v in self.graph.ops[n].inputs}
        for v in sorted(made & kept):
            self.costs["saved_bytes"] += value_bytes(self.graph.values[v]) / self.shards_of(v)

    def required(self, value: int) -> tuple[tuple[Spec, ...], NDArray[np.int64]]:
        return self.strategies.specs(self.dims(value))

    def produced(self, value: int) -> tuple[tuple[Spec, ...], tuple[frozenset[int], ...], NDArray[np.int64]]:
        """Distinct (spec, pending axes) of a value that the group makes, and the index per strategy."""
        specs, row = self.required(value)
        mask = self.pending.get(value, np.zeros(len(self.strategies), dtype=np.int64))
        pairs: dict[tuple[int, int], int] = {}
        at = np.array([pairs.setdefault((int(r), int(m)), len(pairs)) for r, m in zip(row, mask, strict=True)])
        return tuple(specs[r] for r, _ in pairs), tuple(frozenset(_axes(m)) for _, m in pairs), at


def _axes(mask: int) -> tuple[int, ...]:
    return tuple(a for a in range(mask.bit_length()) if mask >> a & 1)


def _touched(graph: Graph, n: int) -> tuple[int, ...]:
    return (*dict.fromkeys(graph.ops[n].inputs), *graph.ops[n].results)


def _link_costs(index: ProgramIndex, link: Link, owner: int, price: GroupPrice, specs: tuple[Spec, ...],
                setting: Setting) -> Costs:
    """Resharding between the spec a tensor settles in and the one a group works with, cotangents included."""
    graph, mesh = index.program.micro, setting.mesh
    costs = {k: np.zeros((len(price.strategies), len(specs))) for k in ("forward_s", "backward_s", "saved_bytes")}
    shape = graph.values[owner].shape
    fetched: set[int] = set()
    saved_again = False
    for read in sorted(link.reads, key=lambda r: r.op):
        backward = graph.ops[read.op].phase is Phase.BACKWARD
        if read.value in fetched:
            saved_again |= backward and read.value == owner
            continue
        fetched.add(read.value)
        wanted, row = price.required(read.value)
        table = reshard_table(shape, itemsize(graph.values[read.value].dtype), specs, wanted, mesh)
        costs["backward_s" if backward else "forward_s"] += table.T[row]
    if saved_again and setting.training:
        costs["saved_bytes"] += _second_copy(graph, owner, price, specs, mesh)
    for value, op in link.makes:
        backward = graph.ops[op].phase is Phase.BACKWARD
        if backward != (value != owner):
            continue
        made, partials, row = price.produced(value)
        table = reshard_table(shape, itemsize(graph.values[value].dtype), made, specs, mesh, partials=partials)
        costs["backward_s" if backward else "forward_s"] += table[row]
    return costs


def _second_copy(graph: Graph, owner: int, price: GroupPrice, specs: tuple[Spec, ...], mesh: LogicalMesh) -> Array:
    """Bytes of the resharded copy that is kept for the backward pass beside the settled one."""
    wanted, row = price.required(owner)
    whole = value_bytes(graph.values[owner])
    table = np.array([[0.0 if w == s else whole / shard_count(w, mesh.shape) for s in specs] for w in wanted])
    return table.reshape(len(wanted), len(specs))[row]


def _param_link_costs(index: ProgramIndex, link: Link, param: Param, choices: ParamChoices, price: GroupPrice,
                      setting: Setting) -> Costs:
    """Gathering a parameter where it is used (in forward and again in backward), and combining its gradient."""
    graph, mesh = index.program.micro, setting.mesh
    size = (len(price.strategies), len(choices))
    costs = {k: np.zeros(size) for k in ("forward_s", "backward_s", "batch_s", "resident_bytes")}
    fetched: set[tuple[int, bool]] = set()
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
        costs["backward_s" if backward else "forward_s"] += table.T[np.ix_(row, at)]
    for value, op in link.makes:
        if graph.ops[op].phase is not Phase.BACKWARD:
            continue
        typed = graph.values[value]
        own = index.owner.get(value, value)
        target, at = choices.update_specs(param.classes, own, len(typed.shape))
        made, partials, row = price.produced(value)
        sync = reshard_table(typed.shape, itemsize(typed.dtype), made, target, mesh, partials=partials)[np.ix_(row, at)]
        deferred = choices.deferred[None, :]
        costs["batch_s"] += np.where(deferred, sync, 0.0)
        costs["backward_s"] += np.where(deferred, 0.0, sync)
        held = value_bytes(graph.values[param.value])  # accumulated in the parameter's own dtype
        local = held / np.array([shard_count(s, mesh.shape) for s in made])[row]
        settled = held / np.array([shard_count(s, mesh.shape) for s in target])[at]
        costs["resident_bytes"] += np.where(deferred, local[:, None], settled[None, :])
    return costs
