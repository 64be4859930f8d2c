"""Which groups of devices a stage may run on, and how each may be seen as an n-dimensional array.

Submesh shapes are Alpa's (OSDI'22, §5.2): one-node powers of two, and whole nodes. A logical mesh is a submesh's
devices laid out row-major, so minor axes stay inside a node; each axis gets the link its groups communicate over.

In: a `Cluster`. Out: `Submesh` and `LogicalMesh` values.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise, product
from math import prod

from planner.core.hardware import Cluster, Link, LogicalMesh, Submesh
from planner.costs.axis_links import axis_link
from planner.costs.torus import block_sizes, neighbour_link, torus_mesh
from planner.errors import MeshError

FEW_NODES = (1, 2, 4)
"""[chosen: few dimensions divide by three, five or seven; Alpa's evaluation keeps to powers of two, its option
`submesh_physical_shape_space`]"""


def submeshes(cluster: Cluster) -> tuple[Submesh, ...]:
    """The submesh shapes a stage may take, smallest first: 1, 2, 4, ... devices of a node, then 1, 2, ... nodes;
    on a torus, those that are a smaller one."""
    if cluster.torus is not None:
        each = cluster.devices_per_node
        return tuple(Submesh(max(1, n // each), min(n, each)) for n in block_sizes(cluster))
    found: list[Submesh] = []
    devices = 1
    while devices < cluster.devices_per_node:
        found.append(Submesh(1, devices))
        devices *= 2
    found += [Submesh(n, cluster.devices_per_node) for n in range(1, cluster.nodes + 1)]
    return tuple(found)


def submesh_of(cluster: Cluster, devices: int) -> Submesh | None:
    """Equal stages of so many devices: part of a node, or whole nodes; on a torus, a smaller one. None where they don't
    go into the cluster."""
    if cluster.torus is not None:
        return next((s for s in submeshes(cluster) if s.device_count == devices), None)
    each = cluster.devices_per_node
    if devices <= each:
        return Submesh(1, devices)
    return None if devices % each else Submesh(devices // each, each)


def searched_submeshes(cluster: Cluster) -> tuple[Submesh, ...]:
    """Those that a search looks at: numbers of nodes that divide the cluster's, and a few, so that twice as many nodes
    have a few submeshes more and not twice as many. Where nodes are in racks or pods, those that a stage can have
    without straddling more of them than it must."""
    if cluster.torus is not None:
        return submeshes(cluster)
    found = (s for s in submeshes(cluster) if s.nodes in FEW_NODES or cluster.nodes % s.nodes == 0)
    if not cluster.levels:
        return tuple(found)
    inside = _fitting_levels(cluster)
    top = cluster.levels[-1].nodes
    far = {s.nodes for s in submeshes(cluster) if s.nodes % top == 0 and (
        s.nodes // top in FEW_NODES or cluster.nodes % s.nodes == 0)}
    return tuple(s for s in submeshes(cluster) if s.nodes in {*inside, *far, cluster.nodes})


def _fitting_levels(cluster: Cluster) -> frozenset[int]:
    """Numbers of nodes of which each divides the next, up to whole groups of every level: laid out from the largest to
    the smallest, all are aligned to their size."""
    found = {1}
    for inner, outer in pairwise((1, *(level.nodes for level in cluster.levels))):
        size = inner
        while size < outer and outer % size == 0:
            found.add(size)
            size *= 2
        found.add(outer)
    return frozenset(n for n in found if n <= cluster.nodes)


@lru_cache(maxsize=4096)
def logical_meshes(cluster: Cluster, submesh: Submesh, max_dims: int = 2) -> tuple[LogicalMesh, ...]:
    """Every distinct way to see a submesh as an array of at most `max_dims` axes, fewest axes first.

    Axes of size one are dropped (a single device has shape `()`). Two orders of the same axes are both kept only where
    their links differ, so inside one node `(2, 4)` appears and `(4, 2)` doesn't.

    Raises:
      MeshError: if the submesh doesn't fit the cluster, or `max_dims` is below 1.
    """
    if max_dims < 1:
        raise MeshError(f"max_dims is {max_dims}", "ask for at least one axis")
    _check_fits(cluster, submesh)
    found: list[LogicalMesh] = []
    seen: set[tuple[tuple[int, Link], ...]] = set()
    for shape in factorisations(submesh.device_count, max_dims):
        if cluster.torus is not None and torus_mesh(cluster, submesh.device_count, shape) is None:
            continue
        mesh = logical_mesh(cluster, submesh, shape)
        axes = tuple(sorted(zip(mesh.shape, mesh.links, strict=True), key=_by_size_and_link))
        if axes not in seen:
            seen.add(axes)
            found.append(mesh)
    return tuple(found)


def factorisations(count: int, max_dims: int) -> tuple[tuple[int, ...], ...]:
    """Ordered factorisations of `count` into at most `max_dims` factors above one, by length, then lexicographic."""
    if count == 1:
        return ((),)
    divisors = [d for d in range(2, count + 1) if count % d == 0]
    return tuple(f for dims in range(1, max_dims + 1) for f in product(divisors, repeat=dims) if prod(f) == count)


def logical_mesh(cluster: Cluster, submesh: Submesh, shape: tuple[int, ...]) -> LogicalMesh:
    """One logical mesh of exactly that shape (axes of size one allowed), with a link per axis.

    Raises:
      MeshError: if the shape doesn't have the submesh's device count, or the submesh doesn't fit the cluster.
    """
    _check_fits(cluster, submesh)
    if any(n < 1 for n in shape) or prod(shape) != submesh.device_count:
        raise MeshError(f"mesh shape {shape} doesn't have {submesh.device_count} devices",
                        f"the submesh is {submesh.nodes} nodes of {submesh.devices_per_node} devices")
    if cluster.torus is not None:
        lies = torus_mesh(cluster, submesh.device_count, shape)
        if lies is None:
            raise MeshError(f"mesh shape {shape} doesn't go into the torus of {cluster.name!r}",
                            "give axes that are products of its dimensions' factors, e.g. powers of two")
        return LogicalMesh(submesh, shape, lies.links, cluster.reduce_scatter_as_all_reduce,
                           cluster.adds_before_all_reduce, cluster.merges_all_reduces, spread=lies.spread)
    links = tuple(axis_link(cluster, submesh, shape, axis) for axis in range(len(shape)))
    return LogicalMesh(submesh, shape, links, cluster.reduce_scatter_as_all_reduce, cluster.adds_before_all_reduce,
                       cluster.merges_all_reduces)


def stage_link(cluster: Cluster, *, same_node: bool) -> Link:
    """The link between one device of a stage and its peer in the next stage, while all devices of the node send."""
    if same_node:
        return cluster.intra_node
    wire = cluster.inter_node
    return Link(min(wire.bandwidth_bytes_per_s / cluster.devices_per_node, cluster.intra_node.bandwidth_bytes_per_s),
                wire.latency_s)


def expected_link(cluster: Cluster, devices: int) -> Link:
    """The link over which a stage of so many devices takes in activations, before it is known where it lies: the
    slowest that it crosses wherever that is, as it fills a node, a rack or a pod."""
    if cluster.torus is not None:
        return neighbour_link(cluster, devices)
    link = stage_link(cluster, same_node=devices < cluster.devices_per_node)
    for level in cluster.levels:
        if level.nodes * cluster.devices_per_node <= devices < cluster.device_count:
            link = _slower(link, level.link, level.nodes * cluster.devices_per_node)
    return link


def hand_over_link(cluster: Cluster, sender: Sequence[int], receiver: Sequence[int]) -> Link:
    """The link between the devices of a stage and those of the next (flat indices): as expected, and no faster than
    their share of the links of the nodes, racks and pods between them, over which one stage sends at a time; the link
    between parts of a mixed cluster, where they are not in the same."""
    if cluster.parts:
        part = cluster.part_of(receiver[0])
        if cluster.part_of(sender[0]) != part:
            return part_link(cluster, part, len(receiver), nodes_of(cluster, sender))
        first = cluster.first_of(part)
        return hand_over_link(cluster.parts[part], [d - first for d in sender], [d - first for d in receiver])
    link = expected_link(cluster, len(receiver))
    if cluster.torus is not None:
        return link
    for nodes, wire in ((1, cluster.inter_node), *((level.nodes, level.link) for level in cluster.levels)):
        group = nodes * cluster.devices_per_node
        ends = {d // group for d in (sender[0], sender[-1], receiver[0], receiver[-1])}
        if len(ends) > 1:
            link = _slower(link, wire, min(group, len(receiver)))
    return link


def part_link(cluster: Cluster, part: int, devices: int, senders: int | None = None) -> Link:
    """Per device, the link into a stage of so many devices in a part of a mixed cluster from one in another part, of so
    many nodes (by default as many): as many wires as the fewer nodes have."""
    assert cluster.between is not None
    nodes = -(-devices // cluster.parts[part].devices_per_node)
    wires = nodes if senders is None else min(nodes, senders)
    return Link(cluster.between.bandwidth_bytes_per_s * wires / devices, cluster.between.latency_s)


def nodes_of(cluster: Cluster, devices: Sequence[int]) -> int:
    """How many nodes these devices of one part are in."""
    part = cluster.part_of(devices[0])
    each = cluster.kinds[part].devices_per_node
    return len({(d - cluster.first_of(part)) // each for d in devices})


def _slower(link: Link, wire: Link, sending: int) -> Link:
    """A link, no faster than the part of a shared wire that each of so many devices has."""
    return Link(min(link.bandwidth_bytes_per_s, wire.bandwidth_bytes_per_s / sending),
                max(link.latency_s, wire.latency_s))


def _check_fits(cluster: Cluster, submesh: Submesh) -> None:
    asked = f"a submesh of {submesh.nodes} nodes by {submesh.devices_per_node} devices"
    if submesh.nodes < 1 or submesh.devices_per_node < 1:
        raise MeshError(f"{asked} is empty", "both counts must be at least 1")
    if submesh.nodes > cluster.nodes or submesh.devices_per_node > cluster.devices_per_node:
        raise MeshError(f"{asked} doesn't fit cluster {cluster.name!r}",
                        f"it has {cluster.nodes} nodes of {cluster.devices_per_node} devices")


def _by_size_and_link(axis: tuple[int, Link]) -> tuple[int, float, float]:
    return axis[0], axis[1].bandwidth_bytes_per_s, axis[1].latency_s
