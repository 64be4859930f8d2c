"""The cluster that is left when nodes or devices are lost, and who its devices were.

Nodes are called `node0` and on, devices `node3.gpu5`, in the order of the plan's devices. All nodes of a cluster are
equal: a node that lost a device is left out whole, as the others would have to do with as few devices; where it is the
only node, as many of its devices as a submesh may have (a power of two) go on. Of a cluster of several types each part
is treated so, and one that has no node left goes; with one part left it is a cluster of equal nodes. Of a slice of TPUs
the largest smaller slice goes on that lost no chip.

In: a `Cluster` and names. Out: `Changed`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from planner.core.hardware import Cluster
from planner.core.mixed import mixed
from planner.costs.torus import left_of
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
      MeshError: no such node or device, or nothing is left; or another number of nodes of several types.
    """
    if not lost and nodes is None:
        return Changed(old, tuple(range(old.device_count)), ())
    if nodes is not None and nodes < 1:
        raise MeshError(f"a cluster of {nodes} nodes has no devices", "ask for at least one node")
    gone, hurt = _read(old, lost)
    if old.parts:
        return _parts_left(old, gone, hurt, nodes)
    return _slice_left(old, gone, hurt, nodes) if old.torus is not None else _left(old, gone, hurt, nodes)


def _left(old: Cluster, gone: set[int], hurt: dict[int, set[int]], nodes: int | None, first: int = 0) -> Changed:
    """Of equal nodes, those left. `first`: what the first of them is called."""
    per_node, notes = old.devices_per_node, list[str]()
    if hurt and old.nodes == 1 and not gone:
        return _part_of_a_node(old, hurt[0], nodes)
    for node, devices in sorted(hurt.items()):
        if node not in gone:
            gone = gone | {node}
            some = ", ".join(f"gpu{d}" for d in sorted(devices))
            notes.append(f"node{first + node} is left out whole: without {some} it is not like the other nodes")
    left = [n for n in range(old.nodes) if n not in gone]
    if not left and not nodes:
        raise MeshError("no node is left", "keep one, or say --nodes how many new ones there are")
    total = len(left) if nodes is None else nodes
    if total < len(left):
        notes.append(f"{', '.join(f'node{first + n}' for n in left[total:])} not used")
    was: list[int | None] = [n * per_node + d for n in left[:total] for d in range(per_node)]
    was += [None] * (total * per_node - len(was))
    if total > len(left):
        notes.append(f"{total - len(left)} new nodes")
    return Changed(replace(old, nodes=total), tuple(was), tuple(notes))


def _parts_left(old: Cluster, gone: set[int], hurt: dict[int, set[int]], nodes: int | None) -> Changed:
    """Of several types, what is left of each."""
    if nodes is not None:
        raise MeshError(f"{nodes} nodes of {old.name!r}, which has several types of devices",
                        "give the cluster that there is: cluster=, or --cluster")
    parts, was, notes, first = list[Cluster](), list[int | None](), list[str](), 0
    for n, part in enumerate(old.parts):
        mine = range(first, first + part.nodes)
        lost = {node - first for node in gone if node in mine}
        cut = {node - first: devices for node, devices in hurt.items() if node in mine}
        try:
            left = _slice_left(part, lost, cut, None) if part.torus is not None else \
                _left(part, lost, cut, None, first)
        except MeshError:
            notes.append(f"nothing is left of {part.described}")
        else:
            parts.append(left.cluster)
            was += [w if w is None else w + old.first_of(n) for w in left.was]
            notes += left.notes
        first += part.nodes
    if not parts:
        raise MeshError("no node is left", "keep one, or give another cluster: cluster=, or --cluster")
    if len(parts) == 1:
        notes.append(f"all devices are of one type now: {parts[0].described}")
        return Changed(parts[0], tuple(was), tuple(notes))
    name = old.name if "+" not in old.name else None
    return Changed(replace(mixed(parts, old.between, name), sources=old.sources), tuple(was), tuple(notes))


def _slice_left(old: Cluster, gone: set[int], hurt: dict[int, set[int]], nodes: int | None) -> Changed:
    """Of a torus, the largest smaller one that lost no chip, or one of so many hosts."""
    per_node = old.devices_per_node
    lost = {n * per_node + d for n in gone for d in range(per_node)}
    lost |= {n * per_node + d for n, devices in hurt.items() for d in devices}
    possible = left_of(old, lost)
    if not possible:
        raise MeshError(f"no slice of {old.name!r} is left", "keep a host, or give another cluster: --cluster")
    asked = [s for s in possible if nodes in (None, s.cluster.nodes)]
    if not asked:
        raise MeshError(f"{nodes} hosts of {old.name!r} are no slice of those that are left",
                        f"slices that are left: {'; '.join(s.described for s in possible)}; or give another cluster")
    found = asked[0]
    note = f"a slice by itself goes on: {found.described}"
    spare = old.device_count - len(lost) - found.cluster.device_count
    return Changed(found.cluster, tuple(range(found.first, found.first + found.cluster.device_count)),
                   (f"{note}; {spare} chips that are left are not used" if spare else note,))


def another(cluster: Cluster) -> Changed:
    """A cluster that shares no device with the old one."""
    note = "all devices are new: everything comes from a checkpoint"
    return Changed(cluster, (None,) * cluster.device_count, (note,))


def _read(old: Cluster, lost: Sequence[str]) -> tuple[set[int], dict[int, set[int]]]:
    """Whole nodes, and devices by node."""
    gone: set[int] = set()
    hurt: dict[int, set[int]] = {}
    sizes = [part.devices_per_node for part in old.kinds for _ in range(part.nodes)]
    for name in lost:
        found = _NAME.match(name.strip())
        if found is None:
            raise MeshError(f"{name!r} is no node and no device", "write node3, or node3.gpu5")
        node, device = int(found[1]), found[2]
        if node >= len(sizes):
            each = " and ".join(f"{part.nodes} nodes of {part.devices_per_node} devices" for part in old.kinds)
            raise MeshError(f"there is no {name.strip()} in {each}", f"nodes are node0 to node{len(sizes) - 1}")
        if device is not None and int(device) >= sizes[node]:
            raise MeshError(f"there is no {name.strip()} in a node of {sizes[node]} devices",
                            f"its devices are gpu0 to gpu{sizes[node] - 1}")
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
