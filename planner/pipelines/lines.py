"""Lines of devices that pipelines are built on: all devices of a cluster, or those of its parts in some order.

On a mixed cluster a stage lies in one part, and the stages of a part follow each other. So parts are laid out one after
the other, in every order of all of them, or of some; stage construction is told for each submesh between which places
it may lie. The stage that begins a part takes its activations over the link between parts: its submesh is there twice,
once at the beginning of its part, with what that takes, and once for all later stages. In the same way, submeshes of
less than a node are there for stages that take their activations from another node and for those that share a node with
the stage before them.

In: what slices cost, the order of parts. Out: `Columns` for stage construction; devices of stages.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from planner.core.hardware import Cluster, Link
from planner.costs.topology import hand_over_link, part_link
from planner.costs.transfer import cut_transfer_s, over_link_s
from planner.pipelines.places import place
from planner.pipelines.slicings import Array, Spans, Times
from planner.pipelines.stages import StageChoice
from planner.slice_costs import SliceCosts

Line = tuple[int, ...]
"""Parts of a cluster, from the first stage to the last."""


@dataclass(frozen=True)
class Columns:
    """What stage construction may choose from.

    Attributes:
      space: [column]: the submesh.
      sizes: [column]: its devices.
      spans: [column, ...]: where it may lie (`stages.Spans`).
      extra_s: [column, first layer]: what taking in activations costs on top of its price, per microbatch.
      devices: on the line.
      line: the order of the parts.
    """

    space: NDArray[np.int64]
    sizes: NDArray[np.int64]
    spans: Spans
    extra_s: Array
    devices: int
    line: Line = (0,)

    def of(self, times: Times, starts: NDArray[np.int64] | slice = slice(None)) -> Times:
        """Times on submeshes, of stages that begin at all or some layers, as times on columns."""
        return times._replace(space=self.space, extra_s=np.ascontiguousarray(self.extra_s[:, starts]))

    def named(self, choice: StageChoice | None) -> StageChoice | None:
        """A choice of columns as one of submeshes."""
        if choice is None:
            return None
        return replace(choice, stages=tuple((a, b, int(self.space[column])) for a, b, column in choice.stages))


@dataclass(frozen=True)
class _Column:
    submesh: int
    span: tuple[int, int, int, int, int]
    extra_s: Array


def lines(hardware: Cluster) -> tuple[Line, ...]:
    """Every order of the parts of a cluster, and of some of them, two at least."""
    if not hardware.parts:
        return ((0,),)
    some = range(len(hardware.parts))
    return tuple(line for count in range(len(some), 1, -1) for line in permutations(some, count))


def columns(costs: SliceCosts, line: Line) -> Columns:
    """The columns of a line. Stages of less than a node stay in one, and pay for what comes from another
    (`places.place`); racks and pods are left to the pricing of what is chosen."""
    sizes = np.array([s.submesh.device_count for s in costs.spaces], dtype=np.int64)
    layers, hardware = len(costs.prepared.layers), costs.hardware
    possible = [not hardware.parts or bool(np.isfinite(costs.times_s[:, m]).any()) for m in range(len(sizes))]
    nothing, end, found = np.zeros(layers), 0, list[_Column]()
    for part in reversed(line):
        own = hardware.kinds[part]
        begin, end = end, end + own.device_count
        mine = [m for m, s in enumerate(costs.spaces) if s.part == part and possible[m]
                and begin + sizes[m] <= end]
        least = min((int(sizes[m]) for m in mine), default=0)
        for m in mine:
            size, upto = int(sizes[m]), end
            whole = int(size >= own.devices_per_node)
            inside = own.nodes > 1 and not whole
            if part != line[0]:
                network = part_link(hardware, part, size)
                found.append(_Column(m, (end - size, end, 0, 0, whole), _farther_s(costs, part, size, network)))
                upto = end - least
            if begin + size > upto:
                continue
            if not inside:
                found.append(_Column(m, (begin, upto, 0, 0, whole), nothing))
                continue
            every, rest = own.devices_per_node, begin % own.devices_per_node
            found.append(_Column(m, (begin, upto, -every, rest, 0), nothing))
            network = hand_over_link(own, (every - 1,), range(every, every + size))
            found.append(_Column(m, (begin, upto, every, rest, 0), _farther_s(costs, part, size, network)))
    space = np.array([c.submesh for c in found], dtype=np.int64)
    spans = np.array([c.span for c in found], dtype=np.int64).reshape(-1, 5)
    extra = np.array([c.extra_s for c in found]).reshape(-1, layers)
    return Columns(space, sizes[space], spans, extra, end, line)


def _farther_s(costs: SliceCosts, part: int, devices: int, link: Link) -> Array:
    """Per first layer, what taking in activations over a link takes on top of its price."""
    own, prepared = costs.hardware.kinds[part], costs.prepared
    ways = 2 if prepared.program.kind == "train" else 1
    entering = prepared.crossing_bytes[1:len(prepared.layers)]
    return np.array([0.0, *(ways * (over_link_s(size, devices, link) - cut_transfer_s(size, devices, own))
                            for size in entering)])


def placed_by_part(sizes: Sequence[int], parts: Sequence[int], hardware: Cluster) -> tuple[tuple[int, ...], ...]:
    """Devices per stage, part by part (see `places.place`)."""
    found: dict[int, tuple[int, ...]] = {}
    for part in dict.fromkeys(parts):
        mine = [s for s, p in enumerate(parts) if p == part]
        first, own = hardware.first_of(part), hardware.kinds[part]
        node = None if own.torus is not None else own.devices_per_node
        for s, devices in zip(mine, place([sizes[s] for s in mine], node), strict=True):
            found[s] = tuple(first + d for d in devices)
    return tuple(found[s] for s in range(len(sizes)))
