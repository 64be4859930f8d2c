"""Time to hand a tensor from one pipeline stage to the next.

Alpa left this out of its objective (OSDI'22, §5.2); here it is part of it. Every device of the receiving stage gets its
shard from a device of the sending stage that has it; where the receiver's shards are coarser than the sender's, a
shard is put together from several. What limits is the busier side: the bytes each receiver takes in, and the bytes
each sender gives out, over one link per device.

In: bytes, specs, mesh shapes, `Link`. Out: seconds.
"""

from collections.abc import Sequence
from math import ceil, prod

from planner.core.hardware import Cluster, Link
from planner.core.spec import Spec, shard_count
from planner.costs.topology import expected_link, hand_over_link


def stage_transfer_s(size_bytes: float, src: Spec, src_mesh: tuple[int, ...], dst: Spec, dst_mesh: tuple[int, ...],
                     link: Link) -> float:
    """Seconds to bring a tensor of `size_bytes` from a sharding on one submesh to a sharding on another.

    Args:
      size_bytes: of the whole tensor.
      src: its spec on the sending submesh, of shape `src_mesh`.
      dst: its spec on the receiving submesh, of shape `dst_mesh`.
      link: between one sender and one receiver while all are busy (`topology.stage_link`).
    """
    cuts_src, cuts_dst = shard_count(src, src_mesh), shard_count(dst, dst_mesh)
    senders, receivers = prod(src_mesh), prod(dst_mesh)
    taken = size_bytes / cuts_dst
    given = taken * receivers / senders
    messages = max(1, ceil(cuts_src / cuts_dst), ceil(receivers / senders))
    return messages * link.latency_s + max(taken, given) / link.bandwidth_bytes_per_s


def cut_transfer_s(size_bytes: float, devices: int, cluster: Cluster) -> float:
    """Seconds to hand `size_bytes` to a stage of so many devices, whose shardings are not known yet: evenly cut."""
    return over_link_s(size_bytes, devices, expected_link(cluster, devices))


def hand_over_s(size_bytes: float, sender: Sequence[int], receiver: Sequence[int], cluster: Cluster) -> float:
    """The same between stages whose devices are known (flat indices): at least as long as `cut_transfer_s` says."""
    return over_link_s(size_bytes, len(receiver), hand_over_link(cluster, sender, receiver))


def over_link_s(size_bytes: float, devices: int, link: Link) -> float:
    """Seconds to hand `size_bytes` to a stage of so many devices, evenly cut, over a link per device."""
    return link.latency_s + size_bytes / devices / link.bandwidth_bytes_per_s
