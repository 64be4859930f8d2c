"""The link that an axis of a logical mesh gets: the slowest that the ring of any group along it crosses, while all
groups are busy and share wires.

A group of devices along an axis may stay in its node, leave it, and leave the rack or pod of its nodes as well. Per
level, the wire of the busiest node (rack, pod) is shared by all groups that leave it. Where a submesh may begin at
several places of a rack, the worst counts, so that what a mesh costs holds wherever its stage is placed.

In: a `Cluster`, a submesh, a mesh's shape and one axis. Out: a `Link` per device.
"""

from dataclasses import replace
from math import gcd, prod

import numpy as np
from numpy.typing import NDArray

from planner.core.hardware import Cluster, Level, Link, Protocol, Submesh

Ids = NDArray[np.int64]


def axis_link(cluster: Cluster, submesh: Submesh, shape: tuple[int, ...], axis: int) -> Link:
    """See the module."""
    nodes = _groups(shape, axis) // submesh.devices_per_node
    inner, wire = cluster.intra_node, cluster.inter_node
    sharing = _leaving(nodes)
    if sharing == 0:
        return inner
    rate = wire.bandwidth_bytes_per_s / sharing
    if bool((_distinct(nodes).sum(axis=1) < shape[axis]).any()):  # two members of a group in one node
        hops = shape[axis] // max(1, submesh.nodes)  # in a node, one of which leaves it
        link = Link(min(rate, inner.bandwidth_bytes_per_s), max(wire.latency_s, inner.latency_s),
                    protocols=_through_both(inner, wire, max(1, hops)))
    else:
        link = Link(rate, wire.latency_s, protocols=wire.protocols)
    below = wire
    for level in cluster.levels:
        link, below = _over_level(link, below, level, cluster, submesh, nodes), level.link
    return link


def _over_level(link: Link, below: Link, level: Level, cluster: Cluster, submesh: Submesh, nodes: Ids) -> Link:
    """The link of an axis, at most as fast as its share of the links between groups of nodes."""
    sharing = max(_leaving((nodes + at) // level.nodes) for at in offsets(cluster, submesh, level))
    if sharing == 0:
        return link
    wire = level.link
    spanned = -(-submesh.nodes // level.nodes)
    hops = max(1, nodes.shape[1] // max(2, spanned))
    return Link(min(link.bandwidth_bytes_per_s, wire.bandwidth_bytes_per_s / sharing),
                max(link.latency_s, wire.latency_s), protocols=_leaving_every(link, below, wire, hops))


def offsets(cluster: Cluster, submesh: Submesh, level: Level) -> tuple[int, ...]:
    """Where in its group of nodes the first node of a submesh may lie: stages are aligned to their size, or all of one
    size, one after the other."""
    last = cluster.nodes - submesh.nodes
    return tuple(range(0, min(level.nodes, last + 1), gcd(submesh.nodes, level.nodes)))


def _groups(shape: tuple[int, ...], axis: int) -> Ids:
    """The flat device indices of each group along `axis` (row-major), one row per group."""
    flat = np.arange(prod(shape)).reshape(shape)
    return np.moveaxis(flat, axis, -1).reshape(-1, shape[axis])


def _distinct(places: Ids) -> NDArray[np.bool_]:
    """Per group, where a place appears that the one before has not (places ascend along a group)."""
    found = np.ones(places.shape, dtype=bool)
    found[:, 1:] = places[:, 1:] != places[:, :-1]
    return found


def _leaving(places: Ids) -> int:
    """How many groups have members in the busiest place and elsewhere; 0 if every group stays in one place."""
    first = _distinct(places)
    crossing = first.sum(axis=1) > 1
    if not crossing.any():
        return 0
    return int(np.bincount(places[crossing][first[crossing]]).max())


def _through_both(inner: Link, wire: Link, hops: int) -> tuple[Protocol, ...]:
    """Protocols of rings that leave their node at every `hops`-th step: those that both links have."""
    inside = {(p.name, p.algorithm): p for p in inner.protocols}
    return tuple(replace(p, step_s=(p.step_s + (hops - 1) * inside[p.name, p.algorithm].step_s) / hops)
                 for p in wire.protocols if (p.name, p.algorithm) in inside)


def _leaving_every(link: Link, below: Link, wire: Link, hops: int) -> tuple[Protocol, ...]:
    """Protocols of rings over `link` of which every `hops`-th step goes over `wire` and not over the link `below` it.
    A wire without protocols of its own is run by those of the link below."""
    known = {(p.name, p.algorithm): p for p in wire.protocols or below.protocols}
    under = {(p.name, p.algorithm): p for p in below.protocols}
    found: list[Protocol] = []
    for p in link.protocols:
        key = p.name, p.algorithm
        if key in known and key in under:
            more_s = max(0.0, known[key].step_s - under[key].step_s) / hops
            found.append(replace(p, step_s=p.step_s + more_s, base_s=max(p.base_s, known[key].base_s),
                                 share=min(p.share, known[key].share)))
    return tuple(found)
