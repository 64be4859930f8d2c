"""From one plan to another: which device needs what, and where it is.

A parameter is cut by its spec, its optimizer state as its update is; a shard is a box. What a device of the new plan
needs is put together from the boxes of the old plan that it overlaps. Each comes from the nearest device that has it:
itself, one of its node, one of another node (of several, they take turns); where none is left, from a checkpoint. Only
the stage that a parameter is home to counts: copies of tied weights are made by whatever runs the plan. Replicas of a
pipeline each have all of it; one comes from one of the old plan, that which has most of it in place.

In: two plans of one model, its update graph, who the new devices were. Out: `Moves`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import prod

from planner.core.graph import Graph, Role
from planner.core.hardware import Cluster, Link
from planner.core.moves import OPTIMIZER, PARAMETER, Arrivals, Moves, Piece
from planner.core.plan import ParamPlan, PlanRecord
from planner.core.replicas import as_if_alone
from planner.core.spec import Spec
from planner.costs.memory import itemsize
from planner.costs.topology import stage_link
from planner.emit.update_specs import by_name, opt_state_places, owner_of

Range = tuple[int, int]
"""[first, last) elements of a dimension."""


@dataclass(frozen=True)
class Held:
    """An array, or several cut alike, as one of the two plans holds it."""

    what: str
    path: str
    row: int | None
    shape: tuple[int, ...]
    item_bytes: int  # of an element, of all of them together
    stage: int
    spec: Spec


def moves(old: PlanRecord, new: PlanRecord, update: Graph | None, was: Sequence[int | None]) -> Moves:
    """What has to move.

    Args:
      old, new: the plans.
      update: the update graph of the model; None if it has no optimizer.
      was: per device of the new cluster, its flat index in the old one; None for a device that is new.
    """
    pairs: list[Moves] = []
    for target in as_if_alone(new):  # a replica is made from the one that has most of it already
        tries = [_moves(source, target, update, was) for source in as_if_alone(old)]
        pairs.append(max(tries, key=lambda m: (-m.checkpoint_bytes, m.kept_bytes)))
    found, stages = list[Arrivals](), 0
    for some, target in zip(pairs, as_if_alone(new), strict=True):
        found += [replace(d, stage=stages + d.stage) for d in some.devices]
        stages += len(target.stages)
    now = {w: d for d, w in enumerate(was) if w is not None}
    return Moves(tuple(found), _seconds(found, now, new.cluster))


def _moves(old: PlanRecord, new: PlanRecord, update: Graph | None, was: Sequence[int | None]) -> Moves:
    """The same between plans without replicas."""
    before = {(h.what, h.path, h.row): h for h in held(old, update)}
    holders = {key: _holders(h, old, was) for key, h in before.items()}
    now = {w: d for d, w in enumerate(was) if w is not None}
    found: list[Arrivals] = []
    after = list(held(new, update))
    nodes = tuple(new.cluster.node_of(d) for d in range(new.cluster.device_count))
    for stage in new.stages:
        mine = [h for h in after if h.stage == stage.index]
        for position, device in enumerate(stage.devices):
            arrivals = _Arriving(device, was[device], now, nodes)
            for h in mine:
                key = (h.what, h.path, h.row)
                arrivals.need(h, box(h.shape, h.spec, stage.mesh_shape, position), before[key],
                              old.stages[before[key].stage].mesh_shape, holders[key])
            found.append(arrivals.done(stage.index, device_name(device, was[device], old.cluster, new.cluster)))
    return Moves(tuple(found), 0.0)


def held(record: PlanRecord, update: Graph | None) -> Iterator[Held]:
    """Parameters and optimizer state; leaves of the state that are cut as their parameter's update is, as one, what
    belongs to no parameter by itself."""
    for p in record.params:
        yield Held(PARAMETER, p.path, p.row, p.shape, itemsize(p.dtype), p.home, p.spec)
    if update is None:
        return
    leaves = tuple(update.inputs_of(Role.OPT_STATE))
    named, sizes = by_name(record.params), dict[int, int]()
    owners: dict[int, ParamPlan] = {}
    for leaf, place in zip(leaves, opt_state_places(record, update, leaves), strict=True):
        value, owner = update.values[leaf.value], owner_of(named, leaf.path, leaf.row)
        if owner is not None and owner.shape == value.shape:
            owners[owner.value] = owner
            sizes[owner.value] = sizes.get(owner.value, 0) + itemsize(value.dtype)
        else:
            yield Held(OPTIMIZER, leaf.path, leaf.row, value.shape, itemsize(value.dtype), place.home, place.spec)
    for key, size in sizes.items():
        p = owners[key]
        yield Held(OPTIMIZER, p.path, p.row, p.shape, size, p.home, p.update_spec)


def box(shape: tuple[int, ...], spec: Spec, mesh: tuple[int, ...], position: int) -> tuple[Range, ...]:
    """The shard of the device at that position of a mesh (row-major)."""
    found: list[Range] = []
    for size, (index, cuts) in zip(shape, _cut(spec, mesh, position), strict=True):
        found.append((index * size // cuts, (index + 1) * size // cuts))
    return tuple(found)


def _cut(spec: Spec, mesh: tuple[int, ...], position: int) -> list[tuple[int, int]]:
    """Per dimension, the number of the shard and how many there are."""
    at = [position // prod(mesh[a + 1:]) % n for a, n in enumerate(mesh)]
    found: list[tuple[int, int]] = []
    for axes in spec:
        index, cuts = 0, 1
        for a in axes:
            index, cuts = index * mesh[a] + at[a], cuts * mesh[a]
        found.append((index, cuts))
    return found


def _holders(h: Held, old: PlanRecord, was: Sequence[int | None]) -> dict[tuple[int, ...], list[int]]:
    """Per shard (its number in each dimension), the devices of the old plan that have it and are still there."""
    stage, left = old.stages[h.stage], {w for w in was if w is not None}
    found: dict[tuple[int, ...], list[int]] = {}
    for position, device in enumerate(stage.devices):
        shard = tuple(index for index, _ in _cut(h.spec, stage.mesh_shape, position))
        here = found.setdefault(shard, [])
        if device in left:
            here.append(device)
    return found


@dataclass
class _Arriving:
    """What one device of the new plan needs, so far. `was`: its old flat index; `now`: old flat index -> new; `nodes`:
    of every new one, its node."""

    device: int
    was: int | None
    now: Mapping[int, int]
    nodes: Sequence[int]
    bytes: dict[str, int] = field(default_factory=lambda: {PARAMETER: 0, OPTIMIZER: 0})
    kept: int = 0
    pieces: list[Piece] = field(default_factory=list[Piece])

    def need(self, h: Held, wanted: Sequence[Range], before: Held, mesh: tuple[int, ...],
             holders: Mapping[tuple[int, ...], Sequence[int]]) -> None:
        """A shard of an array, which was cut as `before` says."""
        cuts = [n for _, n in _cut(before.spec, mesh, 0)]
        touched = [range(low * n // size, -(-high * n // size)) if size else range(0)
                   for (low, high), n, size in zip(wanted, cuts, h.shape, strict=True)]
        for shard in product(*touched):
            elements = prod(min(high, (k + 1) * size // n) - max(low, k * size // n) for (low, high), k, n, size in
                            zip(wanted, shard, cuts, h.shape, strict=True))
            amount = elements * h.item_bytes
            self.bytes[h.what] += amount
            source = self._nearest(holders.get(shard, ()))
            if source is not None and source == self.was:
                self.kept += amount
            elif amount:
                self.pieces.append(Piece(h.what, h.path, h.row, amount, source))

    def _nearest(self, devices: Sequence[int]) -> int | None:
        if self.was in devices:
            return self.was
        near = [d for d in devices if self.nodes[self.now[d]] == self.nodes[self.device]]
        some = near or devices
        return some[self.device % len(some)] if some else None

    def done(self, stage: int, name: str) -> Arrivals:
        return Arrivals(self.device, name, self.was, stage, self.bytes[PARAMETER], self.bytes[OPTIMIZER], self.kept,
                        tuple(self.pieces))


def device_name(device: int, was: int | None, old: Cluster, new: Cluster) -> str:
    """As the old plan calls it, or its place in the new cluster."""
    return f"new {new.device_name(device)}" if was is None else old.device_name(was)


def _seconds(devices: Sequence[Arrivals], now: Mapping[int, int], cluster: Cluster) -> float:
    """All at once: the busiest device inside nodes, or the busiest node between them (racks' links aside), or between
    parts of a mixed cluster."""
    between: dict[tuple[int, int], int] = {}
    for d in devices:
        for piece in d.pieces:
            if piece.source is not None:
                pair = now[piece.source], d.device
                between[pair] = between.get(pair, 0) + piece.bytes
    busy: dict[tuple[Link, str, str, int], int] = {}
    for (source, target), size in between.items():
        for end, at in (("in", target), ("out", source)):
            way = _way(cluster, source, target, at)
            key = (way[0], end, *way[1:])
            busy[key] = busy.get(key, 0) + size
    return max((n / link.bandwidth_bytes_per_s + link.latency_s for (link, *_), n in busy.items()), default=0.0)


def _way(cluster: Cluster, source: int, target: int, end: int) -> tuple[Link, str, int]:
    """The link that a piece takes between two devices, and whose it is at one of its ends."""
    node, kind = cluster.node_of(end), cluster.kind_of(end)
    if cluster.part_of(source) != cluster.part_of(target):
        assert cluster.between is not None
        return cluster.between, "node", node
    if kind.torus is not None:
        return kind.torus.link, "device", end
    if cluster.node_of(source) == cluster.node_of(target):
        return stage_link(kind, same_node=True), "device", end
    far = stage_link(kind, same_node=False)
    return Link(far.bandwidth_bytes_per_s * kind.devices_per_node, far.latency_s), "node", node
