"""Hardware profiles: one JSON file per machine, in SI units, each number with its source.

A profile describes one node; `cluster` says how many there are. Or it lists parts of several types, each with its
number of nodes (`mixtures.py`). What is missing, negative, not a number or unknown is
refused with the file, the field and the mend, so that no plan rests on a typing error.

In: a name or a file. Out: a `Cluster`. Files are in `profiles/` of a checkout, `planner/_profiles/` of a wheel.
"""

import dataclasses
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from planner.core.files import write_atomically
from planner.core.hardware import Cluster, Level, Link
from planner.core.links import oversubscribed
from planner.errors import MeshError, ProfileError, UnknownNameError
from planner.profiles.fields import Fields
from planner.profiles.mixtures import joined, mixture_from, mixture_to_json, of_size
from planner.profiles.parts import (
    device_from,
    device_to_json,
    host_link_from,
    levels_from,
    levels_to_json,
    link_from,
    link_to_json,
    overlap_from,
    torus_from,
    torus_to_json,
)

PRICE = "price_usd_per_device_hour"


def cluster(name: str, nodes: int = 1, devices_per_node: int | None = None,
            levels: Mapping[str, tuple[int, float | Link]] | None = None, between: Link | None = None) -> Cluster:
    """A cluster of `nodes` equal nodes; or of several parts, of different nodes.

    Args:
      name: of a shipped profile (`"dgx-a100"`), or the path of a profile file (ends in `.json`), which may list parts.
        Or parts joined by a plus, each a name with its number of nodes, and devices of a node where not all are used:
        `"dgx-a100:2+p3.16xlarge:1x4"`.
      nodes: how many.
      devices_per_node: use only so many devices of each node; all by default.
      levels: the network above the nodes, the smallest groups first, instead of what the profile says: a group's name,
        how many nodes it holds, and its link to the others or how oversubscribed that is:
        `{"rack": (8, 1.0), "pod": (32, 7.0)}`.
      between: the link of a node of one part to those of the others; by default the slowest that a part has between
        its own nodes.

    Raises:
      UnknownNameError: no such profile; suggests the nearest.
      ProfileError: the profile is unusable.
      MeshError: no nodes or devices, more devices than a node has, impossible levels, or parts that don't go together.
    """
    by_plus = "+" in name
    base = joined(name, _named, between) if by_plus else _named(name, may_mix=True)
    if base.parts:
        if nodes != 1 or devices_per_node is not None or levels is not None:
            raise MeshError(f"nodes, devices or levels beside the parts of {name!r}",
                            "give each its own: name:2x8" if by_plus else "give each its own, in the file")
        return base if between is None else dataclasses.replace(base, between=between)
    if between is not None:
        raise MeshError(f"a link between parts of {name!r}, which has none", "join parts by a plus: dgx-a100+dgx-h100")
    found = of_size(base, nodes, devices_per_node)
    if levels and base.torus is not None:
        raise MeshError(f"levels of {base.name!r}, whose chips are joined in a torus", "drop levels")
    return found if levels is None else dataclasses.replace(found, levels=_levels(levels, found.inter_node))


def _levels(asked: Mapping[str, tuple[int, float | Link]], wire: Link) -> tuple[Level, ...]:
    found: list[Level] = []
    for name, (nodes, link) in asked.items():
        inner, below = (found[-1].nodes, found[-1].link) if found else (1, wire)
        if nodes <= inner or nodes % inner:
            raise MeshError(f"level {name!r} of {nodes} nodes", "give a multiple of the level below, above it")
        if isinstance(link, Link):
            found.append(Level(name, nodes, link))
            continue
        if not 0 < link < float("inf"):
            raise MeshError(f"level {name!r} is oversubscribed {link} times", "give a number above zero")
        found.append(oversubscribed(name, nodes, link, below, nodes // inner))
    return tuple(found)


def profile_names() -> tuple[str, ...]:
    """The names of the shipped profiles, sorted."""
    return tuple(sorted(path.stem for path in _folder().glob("*.json")))


def read_profile(path: Path | str) -> Cluster:
    """The one-node cluster described by a profile file, or the mixed one whose parts it lists.

    Raises:
      ProfileError: the file is missing, is not JSON, or has an impossible, missing or unknown field.
    """
    return _read(Path(path), may_mix=True)


def _read(path: Path, *, may_mix: bool) -> Cluster:
    """`may_mix`: the file may list parts."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProfileError(f"profile {path} can't be read: {error.strerror or error}",
                           "give the path of a profile file, or the name of a shipped one") from error
    except ValueError as error:
        raise ProfileError(f"profile {path} isn't JSON: {error}",
                           "restore the file, or measure the machine again") from error
    fields = Fields.of(data, str(path))
    if "parts" in fields and not may_mix:
        raise ProfileError(f"profile {path} has parts itself", "list its parts, each by itself")
    return _any_from(fields, path.parent)


def _named(name: str, folder: Path = Path(), *, may_mix: bool = False) -> Cluster:
    """A shipped profile, or a file, seen from a folder."""
    return _read(folder / name if name.endswith(".json") else _shipped(name), may_mix=may_mix)


def write_profile(cluster: Cluster, path: Path | str, description: str = "") -> None:
    """Write one node of a cluster as a profile file, or a mixed cluster with all its parts, whole or not at all; parent
    folders are made.

    Raises:
      ProfileError: the cluster holds what reading would refuse (a rate of zero, a number without a source), or the
        folder can't be written to.
    """
    path = Path(path)
    data = mixture_to_json(cluster, _to_json, description) if cluster.parts else _to_json(cluster, description)
    text = json.dumps(data, indent=2) + "\n"
    _any_from(Fields.of(json.loads(text), str(path)), path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    except OSError as error:
        raise ProfileError(f"profile {path} can't be written: {error.strerror or error}",
                           "choose a folder that you may write to") from error


def _shipped(name: str) -> Path:
    if name not in profile_names():
        raise UnknownNameError("cluster", name, profile_names())
    return _folder() / f"{name}.json"


def _folder() -> Path:
    """`planner/_profiles` in a wheel, `profiles` beside the package in a checkout."""
    package = Path(__file__).parent.parent
    installed, checkout = package / "_profiles", package.parent / "profiles"
    return installed if installed.is_dir() else checkout


def _any_from(fields: Fields, folder: Path) -> Cluster:
    """What a file holds; names of files in it are seen from its folder."""
    return mixture_from(fields, partial(_named, folder=folder), _cluster_from) if "parts" in fields else \
        _cluster_from(fields)


def _cluster_from(fields: Fields) -> Cluster:
    device, devices = device_from(fields.inner("device")), fields.count("devices_per_node")
    inside, wire = link_from(fields.inner("intra_node")), link_from(fields.inner("inter_node"))
    found = Cluster(
        name=fields.text("name"), device=device, nodes=1, devices_per_node=devices, intra_node=inside, inter_node=wire,
        levels=levels_from(fields.items("levels"), wire),
        torus=torus_from(fields.inner("torus")) if "torus" in fields else None,
        reduce_scatter_as_all_reduce=fields.flag("reduce_scatter_as_all_reduce", default=False),
        adds_before_all_reduce=fields.flag("adds_before_all_reduce", default=False),
        merges_all_reduces=fields.flag("merges_all_reduces", default=False),
        overlap=overlap_from(fields.inner("overlap")) if "overlap" in fields else None,
        host=host_link_from(fields.inner("host")) if "host" in fields else None,
        price_usd_per_device_hour=fields.positive(PRICE) if PRICE in fields else None,
        sources=fields.sources("sources"))
    fields.text("description", default="")
    fields.refuse_unknown()
    return found


def _to_json(cluster: Cluster, description: str = "") -> dict[str, Any]:
    overlap = {} if cluster.overlap is None else {"overlap": dataclasses.asdict(cluster.overlap)}
    host = {} if cluster.host is None else {"host": dataclasses.asdict(cluster.host)}
    if cluster.host is not None and cluster.host.shared_by == 1:
        del host["host"]["shared_by"]  # as where it is not given
    price = {} if cluster.price_usd_per_device_hour is None else {PRICE: cluster.price_usd_per_device_hour}
    levels: dict[str, Any] = {"levels": levels_to_json(cluster.levels)} if cluster.levels else {}
    if cluster.torus is not None:
        levels["torus"] = torus_to_json(cluster.torus)
    return {"name": cluster.name, "description": description, "device": device_to_json(cluster.device), **overlap,
            **host, **levels, "devices_per_node": cluster.devices_per_node,
            "intra_node": link_to_json(cluster.intra_node), "inter_node": link_to_json(cluster.inter_node),
            "reduce_scatter_as_all_reduce": cluster.reduce_scatter_as_all_reduce,
            "adds_before_all_reduce": cluster.adds_before_all_reduce,
            "merges_all_reduces": cluster.merges_all_reduces, **price, "sources": dict(cluster.sources)}
