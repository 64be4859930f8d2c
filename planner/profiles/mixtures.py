"""Clusters of several profiles: joined by a plus in a name, or listed as the parts of a file.

    {"name": "two-types", "description": "...",
     "parts": [{"profile": "dgx-a100", "nodes": 2}, {"profile": "old.json", "devices_per_node": 4},
               {"profile": {"name": "...", "device": {...}, ...}}],
     "between": {"bandwidth_bytes_per_s": 3.1e9, "latency_s": 3e-5}, "sources": {"between": "..."}}

A part is a shipped profile, a file beside this one, or a whole profile with its own sources, in so many nodes (one, if
nothing is said), of which all devices are used or the first few. Parts have no parts.

In: `Fields` of a file or a name, and a way to read one profile. Out: a `Cluster` with parts; the file's content again.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from planner.core.hardware import Cluster, Link
from planner.core.mixed import mixed
from planner.errors import MeshError, PlannerError, ProfileError
from planner.profiles.fields import Fields
from planner.profiles.parts import link_from, link_to_json

Named = Callable[[str], Cluster]
"""A profile's name or path -> one node of it."""


def of_size(node: Cluster, nodes: int, devices_per_node: int | None) -> Cluster:
    """So many nodes, of which so many devices are used.

    Raises:
      MeshError: no nodes or devices, or more devices than a node has.
    """
    if nodes < 1:
        raise MeshError(f"a cluster of {nodes} nodes has no devices", "ask for at least one node")
    devices = node.devices_per_node if devices_per_node is None else devices_per_node
    if not 1 <= devices <= node.devices_per_node:
        raise MeshError(f"{devices} devices per node asked of {node.name!r}, whose nodes have {node.devices_per_node}",
                        f"ask for 1 to {node.devices_per_node}")
    return replace(node, nodes=nodes, devices_per_node=devices)


def joined(name: str, named: Named, between: Link | None) -> Cluster:
    """`"dgx-a100:2+p3.16xlarge:1x4"`.

    Raises:
      MeshError: a part that can't be read or sized, or parts that don't go together.
      ProfileError, UnknownNameError: as `named` does.
    """
    return mixed([_part(text, named) for text in name.split("+")], between, name)


def _part(text: str, named: Named) -> Cluster:
    """`name`, `name:nodes` or `name:nodesxdevices`."""
    name, sized, size = text.strip().partition(":")
    nodes, _, devices = size.partition("x")
    try:
        counts = int(nodes) if sized else 1, int(devices) if devices else None
    except ValueError as fault:
        raise MeshError(f"part {text!r} of a cluster", "write name:nodes or name:nodesxdevices, e.g. dgx-a100:2x4"
                        ) from fault
    return of_size(named(name), *counts)


def mixture_from(fields: Fields, named: Named, whole: Callable[[Fields], Cluster]) -> Cluster:
    """The cluster that a file with parts describes; `whole` reads a profile that is given inline.

    Raises:
      ProfileError: no such part, or parts that don't go together.
    """
    parts = [_listed(item, named, whole) for item in fields.objects("parts")]
    between = link_from(fields.inner("between")) if "between" in fields else None
    sources = fields.sources("sources") if between is not None or "sources" in fields else ()
    name = fields.text("name")
    fields.text("description", default="")
    fields.refuse_unknown()
    try:
        found = mixed(parts, between, name)
    except MeshError as fault:
        raise ProfileError(f"profile {fields.file}: {fields.prefix}parts: {fault.what}", fault.mend) from fault
    return replace(found, sources=sources)


def _listed(item: Fields, named: Named, whole: Callable[[Fields], Cluster]) -> Cluster:
    where = f"profile {item.file}: {item.prefix}"
    nodes = item.count("nodes") if "nodes" in item else 1
    devices = item.count("devices_per_node") if "devices_per_node" in item else None
    try:
        node = named(item.text("profile")) if item.is_text("profile") else whole(item.apart("profile"))
        item.refuse_unknown()
        return of_size(node, nodes, devices)
    except ProfileError as fault:
        if item.file in fault.what:
            raise
        raise ProfileError(f"{where}profile: {fault.what}", fault.mend) from fault
    except PlannerError as fault:
        raise ProfileError(f"{where[:-1]}: {fault.what}", fault.mend) from fault


def mixture_to_json(cluster: Cluster, whole: Callable[[Cluster], dict[str, Any]], description: str) -> dict[str, Any]:
    """A mixed cluster as `mixture_from` reads it, its parts inline."""
    assert cluster.between is not None
    parts = [{"profile": whole(part), "nodes": part.nodes} for part in cluster.parts]
    sources = dict(cluster.sources) if any(key.startswith("between") for key, _ in cluster.sources) else \
        {"between": "as it was given, or the slowest that a part has between its own nodes"}
    return {"name": cluster.name, "description": description, "parts": parts, "between": link_to_json(cluster.between),
            "sources": sources}
