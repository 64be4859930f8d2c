"""Small made-up machines with round numbers, so that expected times can be worked out by hand."""

import itertools

from planner.core.hardware import Cluster, CollectiveTime, Device, Link, LogicalMesh, Submesh
from planner.core.spec import Spec
from planner.costs.topology import logical_mesh

DEVICE = Device("toy", (("bfloat16", 200.0), ("default", 100.0)), 0.5, 1000, 10.0, 1.0)
"""100 or 50 FLOP/s reachable, 10 B/s of memory traffic, 1 s an operator."""

FAST = Link(100.0, 0.5)
SLOW = Link(8.0, 2.0)


def cluster(nodes: int = 1, devices: int = 8, intra: Link = FAST, inter: Link = SLOW) -> Cluster:
    return Cluster("toy", DEVICE, nodes, devices, intra, inter)


def mesh(*shape: int, measured: tuple[CollectiveTime, ...] = (), as_all_reduce: bool = False) -> LogicalMesh:
    """A one-node mesh over `FAST`."""
    count = 1
    for n in shape:
        count *= n
    link = Link(FAST.bandwidth_bytes_per_s, FAST.latency_s, measured)
    one_node = Cluster("toy", DEVICE, 1, count, link, SLOW, as_all_reduce)
    return logical_mesh(one_node, Submesh(1, count), shape)


def all_specs(rank: int, axes: int) -> list[Spec]:
    """Every spec of a tensor of that rank on a mesh of so many axes, in a fixed order."""
    found: set[Spec] = set()
    for used in range(axes + 1):
        for order in itertools.permutations(range(axes), used):
            for places in itertools.product(range(rank), repeat=used):
                dims: list[tuple[int, ...]] = [()] * rank
                for axis, place in zip(order, places, strict=True):
                    dims[place] = (*dims[place], axis)
                found.add(tuple(dims))
    return sorted(found)
