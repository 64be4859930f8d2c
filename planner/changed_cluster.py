"""The cluster that is left when nodes or devices are lost, and who its devices were.

Nodes are called `node0` and on, devices `node3.gpu5`, in the order of the plan's devices. All nodes of a cluster are
equal: a node that lost a device is left out whole, as the others would have to do with as few devices; where it is the
only node, as many of its devices as a submesh may have (a power of two) go on.

In: a `Cluster` and names. Out: `Changed`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from planner.core.hardware import Cluster
from planner.errors import MeshError

_NAME = re.compile(r"^node(\d+)(?:\.gpu(\d+))?$")


@dataclass(frozen=True)
class Changed:
    """A cluster, per device of it the flat index in the old one (None: it is new), and what was done, in words."""

    cluster: Cluster
    was: tuple[int | None, ...]
    notes: tuple[str, ...]


def without_nodes(old: Cluster, lost: Sequence[str], nodes: int | None = None) -> Changed:
    """What is left of a cluster.

    Args:
      old: the cluster of the plan.
      lost: names of nodes and devices.
      nodes: how many nodes there are to be afterwards; more than are left: new ones come last; fewer: the last that are
        left go.

    Raises:
      MeshError: no such node or device, or nothing is left; or nodes of several types, or in a torus.
    """
    if not lost and nodes is None:
        return Changed(old, tuple(range(old.device_count)), ())
    if old.parts or old.torus is not None:
        kind = "several types of devices" if old.parts else "a torus"
        raise MeshError(f"{old.name!r} has {kind}: what is left of it is no smaller cluster of its kind",
                        "give the cluster that is left: cluster=, or --cluster")
    gone, hurt = _read(old, lost)
    per_node, notes = old.devices_per_node, list[str]()
    if hurt and old.nodes == 1 and not gone:
        return _part_of_a_node(old, hurt[0], nodes)
    for node, devices in sorted(hurt.items()):
        if node not in gone:
            gone.add(node)
            some = ", ".join(f"gpu{d}" for d in sorted(devices))
            notes.append(f"node{node} is left out whole: without {some} it is not like the other nodes")
    left = [n for n in range(old.nodes) if n not in gone]
    if not left and not nodes:
        raise MeshError("no node is left", "keep one, or say --nodes how many new ones there are")
    if nodes is not None and nodes < 1:
        raise MeshError(f"a cluster of {nodes} nodes has no devices", "ask for at least one node")
    total = len(left) if nodes is None else nodes
    if total < len(left):
        notes.append(f"{', '.join(f'node{n}' for n in left[total:])} not used")
    was: list[int | None] = [n * per_node + d for n in left[:total] for d in range(per_node)]
    was += [None] * (total * per_node - len(was))
    if total > len(left):
        notes.append(f"{total - len(left)} new nodes")
    return Changed(replace(old, nodes=total), tuple(was), tuple(notes))


def another(cluster: Cluster) -> Changed:
    """A cluster that shares no device with the old one."""
    note = "all devices are new: everything comes from a checkpoint"
    return Changed(cluster, (None,) * cluster.device_count, (note,))


def _read(old: Cluster, lost: Sequence[str]) -> tuple[set[int], dict[int, set[int]]]:
    """Whole nodes, and devices by node."""
    gone: set[int] = set()
    hurt: dict[int, set[int]] = {}
    for name in lost:
        found = _NAME.match(name.strip())
        if found is None:
            raise MeshError(f"{name!r} is no node and no device", "write node3, or node3.gpu5")
        node, device = int(found[1]), found[2]
        if node >= old.nodes or (device is not None and int(device) >= old.devices_per_node):
            raise MeshError(f"there is no {name.strip()} in {old.nodes} nodes of {old.devices_per_node} devices",
                            f"nodes are node0 to node{old.nodes - 1}, devices gpu0 to gpu{old.devices_per_node - 1}")
        if device is None:
            gone.add(node)
        else:
            hurt.setdefault(node, set()).add(int(device))
    return gone, hurt


def _part_of_a_node(old: Cluster, lost: set[int], nodes: int | None) -> Changed:
    if nodes not in (None, 1):
        raise MeshError(f"{nodes} nodes, of which one lost devices", "leave the node out whole, or keep to one node")
    left = [d for d in range(old.devices_per_node) if d not in lost]
    if not left:
        raise MeshError("no device is left", "keep one")
    count = 1 << (len(left).bit_length() - 1)
    note = f"{count} of the {len(left)} devices that are left go on: submeshes inside a node are powers of two"
    return Changed(replace(old, devices_per_node=count), tuple(left[:count]), (note,) if count < len(left) else ())
