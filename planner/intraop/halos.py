"""What operators of a group read of neighbouring shards: slices that devices exchange before a window slides over them.

A device sends the last slices of its shard to the next device and the first to the one before, each in a permute, and
copies what it received and its own shard into one array (GSPMD, arXiv:2105.04663, §4.3).

In: a `Group`, its `Strategies`, the rules, a mesh. Out: an `Exchange` per operand that is read so; a plan's
communications.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from planner.core.graph import Phase
from planner.core.hardware import Device, LogicalMesh
from planner.costs.collectives import PERMUTE, collective
from planner.costs.compute import traffic_s
from planner.costs.memory import value_bytes
from planner.costs.resharding import moved_bytes
from planner.intraop.choices import Group
from planner.intraop.setting import Array, Costs
from planner.program_index import ProgramIndex
from planner.strategies import Strategies, axes_in


@dataclass(frozen=True)
class Exchange:
    """An operand whose shards exchange slices, per strategy.

    Attributes:
      op, phase: who reads it.
      masks: of each message, the mesh axes that it goes along (0: there is none).
      sizes: of each message, the bytes that a device sends.
      parts: of each message, its seconds.
      copied: bytes of the shard with what it received; 0 where nothing is exchanged.
    """

    op: int
    phase: Phase
    masks: tuple[NDArray[np.int64], ...]
    sizes: tuple[Array, ...]
    parts: tuple[Array, ...]
    copied: Array

    @property
    def seconds(self) -> Array:
        """Of all messages, one after the other."""
        return np.sum(self.parts, axis=0)

    def messages(self, row: int) -> list[tuple[tuple[int, ...], int, float]]:
        """(axes, bytes, seconds) of what is sent under strategy `row`."""
        return [(axes_in(int(mask[row])), round(float(size[row])), float(part[row]))
                for mask, size, part in zip(self.masks, self.sizes, self.parts, strict=True) if mask[row]]


def exchanges(index: ProgramIndex, group: Group, strategies: Strategies, mesh: LogicalMesh) -> tuple[Exchange, ...]:
    """All that a group exchanges; see the module."""
    return tuple(_exchange(index, group, strategies, mesh, n, operand)
                 for n in group.ops for operand in dict.fromkeys(h.operand for h in index.rules[n].halos))


def outdone(index: ProgramIndex, group: Group, batch: Collection[int], mesh_shape: tuple[int, ...]) -> frozenset[int]:
    """Classes that nobody cuts who can cut the batch: those with halos, where a class of the batch divides by the whole
    mesh. Cutting that instead leaves every device the same work and the same sums, and nothing to exchange."""
    classes, graph = group.classes, index.program.micro
    if not any(classes.size[c] % prod(mesh_shape) == 0 for c in batch):
        return frozenset()
    read = ((graph.ops[n].operands[h.operand], h.dimension) for n in group.ops for h in index.rules[n].halos)
    found = (classes.of.get((index.owner.get(v, v), d)) for v, d in read if isinstance(v, int))
    return frozenset(c for c in found if c is not None)


def halo_costs(exchanged: Sequence[Exchange], again: Collection[int], device: Device) -> Costs:
    """Seconds per strategy: waiting for the messages, and copying what came and the shard into one array. `again`: the
    operators that are run a second time."""
    costs: Costs = {}
    for e in exchanged:
        copying = np.where(e.copied > 0, traffic_s(2 * e.copied, device) + device.launch_s, 0.0)
        phase = "backward_s" if e.phase is Phase.BACKWARD else "forward_s"
        for kind in (phase, "again_s") if e.op in again else (phase,):
            costs[kind] = costs.get(kind, 0.0) + e.seconds + copying
    return costs


def halo_working(exchanged: Sequence[Exchange]) -> Array | float:
    """Bytes per strategy that the largest of those copies reads and writes."""
    return np.max([2 * e.copied for e in exchanged], axis=0) if exchanged else 0.0


def _exchange(index: ProgramIndex, group: Group, strategies: Strategies, mesh: LogicalMesh, n: int, operand: int
              ) -> Exchange:
    graph = index.program.micro
    op = graph.ops[n]
    value = op.operands[operand]
    if not isinstance(value, int):
        raise TypeError(f"operator {n} ({op.primitive}) has a halo on operand {operand}, which is a literal")
    typed = graph.values[value]
    dims = group.classes.dims(index.owner.get(value, value), len(typed.shape))
    shards = strategies.shards([c for c in dims if c is not None])
    moved, held = moved_bytes(typed, mesh) / shards, value_bytes(typed) / shards
    grown, cut = np.ones(len(strategies)), np.zeros(len(strategies), dtype=bool)
    masks: list[NDArray[np.int64]] = []
    sizes: list[Array] = []
    parts: list[Array] = []
    for halo in (h for h in index.rules[n].halos if h.operand == operand):
        c = dims[halo.dimension]
        mask = strategies.axes_on([] if c is None else [c])
        long = typed.shape[halo.dimension] / strategies.shards([] if c is None else [c])
        for slices in (s for s in (halo.before, halo.after) if s):
            size = np.where(mask > 0, moved * grown * slices / long, 0.0)
            masks.append(mask)
            sizes.append(size)
            parts.append(_permutes_s(mask, size, mesh))
        grown = np.where(mask > 0, grown * (1 + (halo.before + halo.after) / long), grown)
        cut |= mask > 0
    phase = Phase.BACKWARD if op.phase is Phase.BACKWARD else Phase.FORWARD
    return Exchange(n, phase, tuple(masks), tuple(sizes), tuple(parts), np.where(cut, held * grown, 0.0))


def _permutes_s(mask: NDArray[np.int64], size: Array, mesh: LogicalMesh) -> Array:
    seconds = np.zeros(len(mask))
    for m in _distinct(mask):
        rows = mask == m
        seconds[rows] = collective(PERMUTE, axes_in(m), mesh).over(size[rows])
    return seconds


def _distinct(mask: NDArray[np.int64]) -> Sequence[int]:
    return [m for m in np.unique(mask).tolist() if m]
