"""Clusters of different devices: nodes with A100s and nodes with V100s, two generations of TPUs.

The parts are clusters of equal devices with a link between their nodes. Devices are numbered part after part. A stage
lies in one part; what it does is priced with that part's figures. The compiler is the same for all.

In: clusters. Out: a `Cluster` with `parts`; the same with other memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from planner.core.hardware import Cluster, Link, Overlap
from planner.errors import MeshError


def mixed(parts: Sequence[Cluster], between: Link | None = None, name: str | None = None) -> Cluster:
    """A cluster of several parts.

    Args:
      parts: clusters of equal devices, at least two.
      between: the link of a node of one part to those of the others, shared by the node's devices; by default the
        slowest that any part has between its own nodes.
      name: what to call it; by default `"dgx-a100:2+p3.16xlarge:2"`, names and numbers of nodes.

    Raises:
      MeshError: fewer than two parts, parts of parts, or parts that can't be compiled for together.
    """
    if len(parts) < 2:
        raise MeshError(f"a mixed cluster of {len(parts)} parts", "give two or more, or use the one as it is")
    for part in parts:
        if part.parts:
            raise MeshError(f"{part.name!r} is mixed already", "give its parts, each by itself")
        if part.device.alone > 1:
            raise MeshError(f"devices of {part.name!r} share cores", "mix devices that have their own")
    first = parts[0]
    for part in parts[1:]:
        if _habits(part) != _habits(first):
            raise MeshError(f"{first.name!r} and {part.name!r} are compiled for by different compilers",
                            "mix devices of one compiler: all GPUs, or all TPUs")
    link = between or Link(min(p.inter_node.bandwidth_bytes_per_s for p in parts),
                           max(p.inter_node.latency_s for p in parts))
    return replace(first, name=name or "+".join(f"{p.name}:{p.nodes}" for p in parts), parts=tuple(parts), between=link,
                   nodes=sum(p.nodes for p in parts), overlap=_least([p.overlap for p in parts]), host=None,
                   price_usd_per_device_hour=_mean_price(parts))


def in_every_part(cluster: Cluster, change: Callable[[Cluster], Cluster]) -> Cluster:
    """A cluster of equal devices changed, or every part of a mixed one."""
    return replace(change(cluster), parts=tuple(change(part) for part in cluster.parts))


def with_scaled_memory(cluster: Cluster, scale: float) -> Cluster:
    """The same devices with so many times their memory."""
    def scaled(part: Cluster) -> Cluster:
        return replace(part, device=replace(part.device, memory_bytes=max(int(part.device.memory_bytes * scale), 1)))
    return in_every_part(cluster, scaled)


def _habits(part: Cluster) -> tuple[bool, bool, bool]:
    return part.reduce_scatter_as_all_reduce, part.adds_before_all_reduce, part.merges_all_reduces


def _mean_price(parts: Sequence[Cluster]) -> float | None:
    """The price of a device, on the mean; None where a part has none."""
    prices = [p.price_usd_per_device_hour for p in parts]
    known = [price * p.device_count for p, price in zip(parts, prices, strict=True) if price is not None]
    return sum(known) / sum(p.device_count for p in parts) if len(known) == len(parts) else None


def _least(overlaps: Sequence[Overlap | None]) -> Overlap | None:
    """What hides beside compute in every part: what is simulated of all together."""
    known = [o for o in overlaps if o is not None]
    if len(known) < len(overlaps):
        return None
    return Overlap(min(o.gradient_sync for o in known), min(o.parameter_gather for o in known),
                   min(o.hand_over for o in known))
