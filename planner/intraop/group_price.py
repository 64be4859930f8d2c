"""Prices of one group of operators per strategy: kernels, reductions inside it, bytes kept for the backward part.

In: a `Group`, its `Strategies`, a `Setting`. Out: a `GroupPrice`, which also says what the group's links need to know.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.core.graph import Phase
from planner.core.hardware import Device
from planner.core.spec import Spec, replicated
from planner.costs.collectives import ALL_REDUCE, collective, when_merged
from planner.costs.compute import FILTER_GRADIENT, FORWARD, INPUT_GRADIENT, traffic_s
from planner.costs.memory import itemsize, value_bytes
from planner.costs.resharding import moved_bytes, reshard_table
from planner.intraop.arithmetic import CONVOLUTION, Local, arithmetic_s
from planner.intraop.choices import Group, Selection
from planner.intraop.dims import OpClasses
from planner.intraop.fused import Fused, fused
from planner.intraop.group_costs import LINEAR
from planner.intraop.group_facts import facts_of
from planner.intraop.halos import exchanges, halo_costs, halo_working
from planner.intraop.relayout import relaid
from planner.intraop.setting import AGAIN, Array, Costs, Setting
from planner.intraop.structure import ANCHORS
from planner.program_index import ProgramIndex
from planner.strategies import Strategies, axes_in


@dataclass(frozen=True)
class Settled:
    """A reduction that the group finishes: the mesh axes combined per strategy (a mask), and what that takes."""

    value: int
    mask: NDArray[np.int64]
    phase: Phase
    seconds: Array


Produced = tuple[tuple[Spec, ...], tuple[frozenset[int], ...], NDArray[np.int64]]


class GroupPrice:
    """Prices of one group per strategy, and what its links need: specs required and reductions pending.

    Reductions that the group itself must finish (a softmax over a sharded dimension) are priced inside; those pending
    on values it hands out are left to the link, where the receiver's sharding decides between all-reduce and
    reduce-scatter.
    """

    def __init__(self, index: ProgramIndex, group: Group, strategies: Strategies, setting: Setting,
                 selection: Selection | None = None) -> None:
        self.graph = index.program.micro
        self.owner = index.owner
        self.batch_dims = index.batch_dims
        self.lasting, self.role = index.lasting, index.role
        self.group = group
        self.strategies = strategies
        self.setting = setting
        self._known = facts_of(group)
        self.costs: Costs = {k: np.zeros(len(strategies)) for k in ("forward_s", "backward_s", "saved_bytes", *AGAIN)}
        self.again = frozenset[int]() if selection is None else selection.again.intersection(group.ops)
        self.remade = frozenset(r for n in self.again for r in self.graph.ops[n].results)
        self.working = np.zeros(len(strategies))
        self.pending: dict[int, NDArray[np.int64]] = {}  # of values that wait under some strategy
        self.settled: list[Settled] = []
        self._depth: dict[int, int] = {}  # value -> how many of the group's all-reduces it waits for, one after another
        self._started: dict[tuple[int, Phase], list[NDArray[np.int64]]] = {}  # masks of a depth, whose start is paid
        self._produced: dict[int, Produced] = {}
        self._compute()
        self._reductions(index)
        self.exchanged = exchanges(index, group, strategies, setting.mesh)
        for kind, seconds in halo_costs(self.exchanged, self.again, setting.device).items():
            self.costs[kind] += seconds
        self.working = np.maximum(self.working, halo_working(self.exchanged))
        self.handed_back = self._hand_back(index)

    def dims(self, value: int) -> tuple[int | None, ...]:
        """The class of each dimension of a value."""
        return self._known.dims(self.graph, self.owner, self.group, value)

    def shards_of(self, value: int) -> Array:
        return self.strategies.shards([c for c in self.dims(value) if c is not None])

    def _compute(self) -> None:
        for phase, kind in ((Phase.FORWARD, "forward_s"), (Phase.BACKWARD, "backward_s")):
            ops = [n for n in self.group.ops
                   if (self.graph.ops[n].phase is Phase.BACKWARD) == (phase is Phase.BACKWARD)]
            self._add(ops, kind, *self._kernels_of(ops))
        again = sorted(self.again)
        self._add(again, "again_s", *self._kernels_of(again, again=True))

    def _add(self, ops: Sequence[int], kind: str, seconds: Array, working: Array) -> None:
        self.costs[kind] += seconds
        self.working = np.maximum(self.working, working)
        self._relayout(ops, kind)

    def kernels_s(self, ops: Collection[int]) -> Array:
        """Seconds of the kernels of some of the group's operators alone, per strategy; without copies around them."""
        return self._kernels_of([n for n in self.group.ops if n in ops])[0]

    def read_bytes(self, ops: Collection[int]) -> Array:
        """Bytes, per strategy, of activations and cotangents that some of the group's operators read and don't make."""
        mine = [n for n in self.group.ops if n in ops]
        made = {r for n in mine for r in self.graph.ops[n].results}
        read = {v for n in mine for v in self.graph.ops[n].inputs}
        return self._bytes(v for v in sorted(read - made) if self.owner.get(v, v) not in self.role)

    def _kernels_of(self, ops: Sequence[int], *, again: bool = False) -> tuple[Array, Array]:
        """Seconds of operators, and bytes that the largest kernel works with, per strategy."""
        by_op = {o.op: o for o in self.group.classes.ops}
        heavy = [n for n in ops if self.graph.ops[n].primitive in ANCHORS]
        parts = [self._heavy(n, by_op[n]) for n in heavy]
        parts.append(self._fused([n for n in ops if n not in heavy], again=again))
        return sum((s for s, _ in parts), self._zero()), np.max([working for _, working in parts], axis=0)

    def _zero(self) -> Array:
        return np.zeros(len(self.strategies))

    def hold(self, saved: Iterable[int], selected: Iterable[int]) -> None:
        """Count values that only this group knows: those that its backward part reads, and those that are kept where
        selected tensors are recomputed."""
        for kind, values in (("saved_bytes", saved), ("kept_bytes", selected)):
            self.costs[kind] = self.costs[kind] + self._bytes(sorted(values))

    def _heavy(self, n: int, classes: OpClasses) -> tuple[Array, Array]:
        work = self._known.work(self.graph, n)
        touched = (*dict.fromkeys(self.graph.ops[n].inputs), *self.graph.ops[n].results)
        moved, cold = self._bytes(touched), self._bytes(self._cold((n,), touched))
        device = self.setting.device
        flops = work.flops / self.strategies.shards(classes.factors)
        op = self.graph.ops[n]
        convolves = self._convolves(n) if op.primitive == CONVOLUTION else ""
        arithmetic = arithmetic_s(self.graph, op, Local(flops, self._local_size, convolves), work.dtype, device)
        exposed = device.exposed_traffic * cold / device.memory_bandwidth_bytes_per_s
        seconds = np.maximum(arithmetic + exposed, _traffic_s(moved, cold, device)) + device.launch_s * work.launches
        return seconds, moved

    def _relayout(self, ops: Sequence[int], kind: str) -> None:
        """Copies around products, where the compiler makes them."""
        device = self.setting.device
        if device.relayout is None:
            return
        for v in relaid(self.graph, ops):
            size = value_bytes(self.graph.values[v]) / self.shards_of(v)
            self.costs[kind] += device.relayout * traffic_s(2 * size, device) + device.launch_s

    def _convolves(self, n: int) -> str:
        """What a convolution computes: the result, or a gradient of its input or filter."""
        op = self.graph.ops[n]
        result = self.owner.get(op.results[0], op.results[0])
        batched = any((result, d) in self.batch_dims for d in range(len(self.graph.values[result].shape)))
        return FORWARD if op.phase is not Phase.BACKWARD else INPUT_GRADIENT if batched else FILTER_GRADIENT

    def _local_size(self, value: int, dim: int) -> Array:
        """Size of one dimension of a value on one device, per strategy."""
        cls = self.dims(value)[dim]
        size = float(self.graph.values[value].shape[dim])
        return np.full(len(self.strategies), size) if cls is None else size / self.strategies.shards([cls])

    def _fused(self, ops: Sequence[int], *, again: bool) -> tuple[Array, Array]:
        """Elementwise, layout and reduction operators run as fused kernels: bytes of what goes in and comes out."""
        if not ops:
            return self._zero(), self._zero()
        facts, device, seconds = self._facts(ops, again=again), self.setting.device, self._zero()
        for kernel in facts.kernels:
            arithmetic = self._zero()
            for factors, flops, transcendentals in kernel.work:
                parts = self.strategies.shards(factors)
                arithmetic = arithmetic + flops / parts / device.flops_per_s("default")
                if device.transcendentals_per_s is not None:
                    arithmetic = arithmetic + transcendentals / parts / device.transcendentals_per_s
            traffic = _traffic_s(self._bytes(kernel.outer), self._bytes(kernel.cold), device)
            seconds = seconds + np.maximum(arithmetic, traffic) + device.launch_s * kernel.launches
        return seconds, self._bytes(facts.outer)

    def _facts(self, ops: Sequence[int], *, again: bool) -> Fused:
        """What fused operators do whatever the strategies and the mesh."""
        each = self.setting.device.kernel_per_result
        key = ("fused", tuple(ops), self.again if again else None, each)
        known = self.group.asked.get(key)
        if not isinstance(known, Fused):
            mine = set(ops)
            beside = [n for n in self.group.ops if n not in mine and self._runs_beside(n, again=again)]
            self.group.asked[key] = known = fused(self.graph, self.group, ops, beside, self._cold, each=each)
        return known

    def _runs_beside(self, n: int, *, again: bool) -> bool:
        """Whether an operator is there to read what others of the group make: in a repetition only the repeated ones
        and the backward are."""
        return not again or n in self.again or self.graph.ops[n].phase is Phase.BACKWARD

    def _bytes(self, values: Iterable[int]) -> Array:
        """Of one device, per strategy."""
        found = np.zeros(len(self.strategies))
        for classes, size in self._known.bytes(self.graph, self.owner, self.group, tuple(values)):
            found += size / self.strategies.shards(classes)
        return found

    def _cold(self, ops: Iterable[int], touched: Iterable[int]) -> list[int]:
        """Those of the values touched by operators of one phase that are in no cache: of what lasts, all but what a
        forward operator just made for the next."""
        made = {r for n in ops for r in self.graph.ops[n].results}
        backward = any(self.graph.ops[n].phase is Phase.BACKWARD for n in ops)
        return [v for v in touched if v in self.lasting and (backward or v in made or v in self.role)]

    def _reductions(self, index: ProgramIndex) -> None:
        by_op = {o.op: o for o in self.group.classes.ops}
        for n in self.group.ops:
            op = self.graph.ops[n]
            reduced = by_op[n].reduced
            mask = self.strategies.axes_on(reduced) if reduced else None
            depth = 0
            for v in op.inputs:
                depth = max(depth, self._depth.get(v, 0))
                waiting = self.pending.get(v)
                if waiting is None:
                    continue
                if op.primitive in LINEAR:
                    mask = waiting if mask is None else mask | waiting
                else:
                    self._settle(v, op.phase)
                    depth = max(depth, self._depth[v])
            is_summed = index.rules[n].combine == "sum"
            for r in op.results:
                self._depth[r] = depth
                if mask is not None and mask.any():
                    self.pending[r] = mask
                    if not is_summed:
                        self._settle(r, op.phase)
                elif not is_summed:
                    self._depth[r] += 1

    def _settle(self, value: int, phase: Phase) -> None:
        """Price the all-reduce that a value waits for. Where the compiler merges those that don't wait for each other,
        the first of a depth pays for the start."""
        mask, seconds = self.pending.pop(value), np.zeros(len(self.strategies))
        phase = Phase.BACKWARD if phase is Phase.BACKWARD else Phase.FORWARD
        depth = self._depth.get(value, 0)
        started = self._started.setdefault((depth, phase), [])
        paid = np.any([mask == other for other in started], axis=0) if started else np.zeros(len(mask), dtype=bool)
        local = moved_bytes(self.graph.values[value], self.setting.mesh) / self.shards_of(value)
        for m in np.unique(mask):
            if m:
                rows = mask == m
                first, later = (collective(ALL_REDUCE, axes_in(int(m)), mesh)
                                for mesh in (self.setting.mesh, when_merged(self.setting.mesh)))
                seconds[rows] = np.where(paid[rows], later.over(local[rows]), first.over(local[rows]))
        started.append(mask)
        self.costs["backward_s" if phase is Phase.BACKWARD else "forward_s"] += seconds
        if value in self.remade:
            self.costs["again_s"] += seconds
        self.settled.append(Settled(value, mask, phase, seconds))
        self._depth[value] = depth + 1

    def _hand_back(self, index: ProgramIndex) -> tuple[int, ...]:
        """New values of carried state that the group makes. A run keeps them whole on every device between steps."""
        if index.program.kind != "train":
            return ()
        found = self._known.handed_back(self.graph, self.group)
        for v in found:
            typed = self.graph.values[v]
            specs, partials, row = self.produced(v)
            kept = replicated(len(typed.shape))
            table = reshard_table(typed.shape, itemsize(typed.dtype), specs, (kept,), self.setting.mesh,
                                  partials=partials)
            self.costs["forward_s"] += table[row, 0]
        return found

    def required(self, value: int) -> tuple[tuple[Spec, ...], NDArray[np.int64]]:
        return self.strategies.specs(self.dims(value))

    def pending_axes(self, value: int, row: int) -> tuple[int, ...]:
        """Mesh axes over which a value that the group makes is still to be combined, under strategy `row`."""
        mask = self.pending.get(value)
        return () if mask is None else axes_in(int(mask[row]))

    def produced(self, value: int) -> Produced:
        """Distinct (spec, pending axes) of a value that the group makes, and the index per strategy."""
        if value not in self._produced:
            self._produced[value] = self._produce(value)
        return self._produced[value]

    def _produce(self, value: int) -> Produced:
        specs, row = self.required(value)
        mask = self.pending.get(value)
        if mask is None:
            return specs, (frozenset[int](),) * len(specs), row
        pairs: dict[tuple[int, int], int] = {}
        at = np.array([pairs.setdefault((int(r), int(m)), len(pairs)) for r, m in zip(row, mask, strict=True)])
        return tuple(specs[r] for r, _ in pairs), tuple(frozenset(axes_in(m)) for _, m in pairs), at


def _traffic_s(moved: Array, cold: Array, device: Device) -> Array:
    """Seconds to move bytes, of which some are in no cache."""
    return traffic_s(moved - cold, device) + cold / device.memory_bandwidth_bytes_per_s
