"""The parts of a profile: a device and its links, as objects of a JSON file and back.

In: `Fields` of a file, or a `Device` or `Link`. Out: the one from the other. What is impossible is refused there.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from planner.core.hardware import (
    RING,
    TREE,
    CollectiveTime,
    ConvolutionRates,
    Device,
    Level,
    Link,
    MatmulGrid,
    MemoryLevel,
    Overlap,
    Protocol,
    Tiling,
    Torus,
)
from planner.core.host import HostLink
from planner.core.links import oversubscribed
from planner.costs.collectives import KINDS
from planner.errors import ProfileError
from planner.profiles.fields import Fields


def device_from(fields: Fields) -> Device:
    """One device. Raises `ProfileError`."""
    found = Device(
        name=fields.text("name"), peak_flops_per_s=fields.rates("peak_flops_per_s", needs="default"),
        matmul_efficiency=fields.fraction("matmul_efficiency"), memory_bytes=fields.count("memory_bytes"),
        memory_bandwidth_bytes_per_s=fields.positive("memory_bandwidth_bytes_per_s"),
        launch_s=fields.non_negative("launch_s"), dispatch_s=fields.non_negative("dispatch_s", default=0.0),
        result_s=fields.non_negative("result_s", default=0.0),
        transcendentals_per_s=fields.positive("transcendentals_per_s") if "transcendentals_per_s" in fields else None,
        convolutions=_convolutions_from(fields.inner("convolutions")) if "convolutions" in fields else None,
        matmuls=tuple(_grid_from(item) for item in fields.items("matmuls")),
        tiling=_tiling_from(fields.inner("tiling")) if "tiling" in fields else None,
        caches=tuple(_level_from(item) for item in fields.items("caches")),
        exposed_traffic=fields.part("exposed_traffic") if "exposed_traffic" in fields else 0.0,
        memory_margin=fields.non_negative("memory_margin", default=Device.memory_margin),
        relayout=fields.at_least_one("relayout", default=1.0) if "relayout" in fields else None,
        alone=fields.at_least_one("alone", default=1.0),
        kernel_per_result=fields.flag("kernel_per_result", default=False))
    fields.refuse_unknown()
    return found


def overlap_from(fields: Fields) -> Overlap:
    """What runs beside compute."""
    found = Overlap(fields.part("gradient_sync"), fields.part("parameter_gather"), fields.part("hand_over"))
    fields.refuse_unknown()
    return found


def host_link_from(fields: Fields) -> HostLink:
    """The way to the host's memory."""
    found = HostLink(fields.positive("to_device_bytes_per_s"), fields.positive("to_host_bytes_per_s"),
                     fields.positive("both_bytes_per_s"), fields.non_negative("latency_s"),
                     fields.count("memory_bytes"), fields.count("shared_by") if "shared_by" in fields else 1)
    fields.refuse_unknown()
    return found


def link_from(fields: Fields) -> Link:
    """One link. Raises `ProfileError`."""
    found = Link(fields.positive("bandwidth_bytes_per_s"), fields.non_negative("latency_s"),
                 tuple(_collective_from(item) for item in fields.items("measured")),
                 tuple(_protocol_from(item) for item in fields.items("protocols")))
    fields.refuse_unknown()
    return found


def levels_from(items: Sequence[Fields], wire: Link) -> tuple[Level, ...]:
    """The levels above the node, the smallest first; `wire` is the link of a node. Raises `ProfileError`."""
    found: list[Level] = []
    for item in items:
        inner, below = (found[-1].nodes, found[-1].link) if found else (1, wire)
        nodes = item.count("nodes")
        if nodes <= inner or nodes % inner:
            raise ProfileError(f"profile {item.file}: {item.prefix}nodes is {nodes}",
                               f"give a multiple of the {inner} of the level below" if found else "give two or more")
        if "link" in item:
            found.append(Level(item.text("name"), nodes, link_from(item.inner("link"))))
        else:
            found.append(oversubscribed(item.text("name"), nodes, item.positive("oversubscription"), below,
                                        nodes // inner))
        item.refuse_unknown()
    return tuple(found)


def torus_from(fields: Fields) -> Torus:
    """A torus of chips. Raises `ProfileError`."""
    dimensions = fields.count("dimensions")
    if dimensions not in (2, 3):
        raise ProfileError(f"profile {fields.file}: {fields.prefix}dimensions is {dimensions}", "give 2 or 3")
    found = Torus(dimensions, link_from(fields.inner("link")), fields.count("closes_at"),
                  fields.flag("closes_together", default=False))
    fields.refuse_unknown()
    return found


def torus_to_json(torus: Torus) -> dict[str, Any]:
    """A torus as `torus_from` reads it."""
    return {**dataclasses.asdict(torus), "link": link_to_json(torus.link)}


def levels_to_json(levels: Sequence[Level]) -> list[dict[str, Any]]:
    """Levels as `levels_from` reads them."""
    return [{"name": level.name, "nodes": level.nodes, "link": link_to_json(level.link)} for level in levels]


def device_to_json(device: Device) -> dict[str, Any]:
    """A device as `device_from` reads it; what it has not is left out."""
    found = _present(device)
    found["peak_flops_per_s"] = dict(device.peak_flops_per_s)
    for name in ("dispatch_s", "result_s", "exposed_traffic"):  # as where it is not given: it needs no source then
        if not found[name]:
            del found[name]
    if device.memory_margin == Device.memory_margin:
        del found["memory_margin"]
    if device.alone == 1:
        del found["alone"]
    if not device.kernel_per_result:
        del found["kernel_per_result"]
    if device.tiling is not None:
        found["tiling"]["shapes"] = [dict(zip(_SHAPE, shape, strict=True)) for shape in device.tiling.shapes]
    return found


def link_to_json(link: Link) -> dict[str, Any]:
    """A link as `link_from` reads it; what it has not is left out."""
    return _present(link)


_SHAPE = ("rows", "columns", "share")
"""Fields of a tile's shape."""


def _present(part: Device | Link) -> dict[str, Any]:
    return {key: value for key, value in dataclasses.asdict(part).items() if value is not None and value != ()}


def _convolutions_from(fields: Fields) -> ConvolutionRates:
    found = ConvolutionRates(fields.fraction("forward"), fields.fraction("input_gradient"),
                             fields.fraction("filter_gradient"), fields.positive("full_width"))
    fields.refuse_unknown()
    return found


def _grid_from(fields: Fields) -> MatmulGrid:
    batch, m, n, k = (fields.ascending(name) for name in ("batch", "m", "n", "k"))
    rates = fields.positives("flops_per_s", len(batch) * len(m) * len(n) * len(k))
    found = MatmulGrid(fields.text("dtype"), batch, m, n, k, rates)
    fields.refuse_unknown()
    return found


def _tiling_from(fields: Fields) -> Tiling:
    shapes: list[tuple[int, int, float]] = []
    for item in fields.items("shapes"):
        shapes.append((item.count("rows"), item.count("columns"), item.fraction("share")))
        item.refuse_unknown()
    found = Tiling(fields.count("units"), tuple(shapes), fields.count("depth"), int(fields.non_negative("fill")))
    fields.refuse_unknown()
    return found


def _level_from(fields: Fields) -> MemoryLevel:
    found = MemoryLevel(fields.text("name"), fields.count("capacity_bytes"), fields.positive("bandwidth_bytes_per_s"))
    fields.refuse_unknown()
    return found


def _collective_from(fields: Fields) -> CollectiveTime:
    found = CollectiveTime(fields.choice("kind", KINDS), fields.count("devices"), fields.non_negative("fixed_s"),
                           fields.non_negative("per_byte_s"))
    fields.refuse_unknown()
    return found


def _protocol_from(fields: Fields) -> Protocol:
    found = Protocol(fields.text("name"), fields.choice("algorithm", (RING, TREE)), fields.non_negative("base_s"),
                     fields.non_negative("step_s"), fields.fraction("share"))
    fields.refuse_unknown()
    return found
