"""How each kind of parameter is cut: a small grid of its shards, with the devices that hold each one.

Parameters whose paths differ in numbers alone, with the same shape and sharding, are one kind (`blocks/*/wq, × 12`).
Devices are numbered within their stage.
"""

import math
import re
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from planner.core.plan import ParamPlan, PlanRecord
from planner.core.spec import Spec, to_text
from planner.report import units
from planner.report.figures import style

MOST = 12
"""Kinds drawn, cut ones before whole ones, largest first; the rest is counted."""


CELL = (2.4, 1.7)
"""Width and height of a kind's cell in inches."""


@dataclass(frozen=True)
class Kind:
    """Parameters that look the same: name pattern, an example, how many, elements in all, its stage's mesh."""

    name: str
    example: ParamPlan
    count: int
    elements: int
    mesh_shape: tuple[int, ...]
    mesh_axes: tuple[str, ...]


def draw(axes: Axes, record: PlanRecord) -> None:
    """Draw a tile grid for each kind into the axes."""
    found = kinds(record)
    shown = found[:MOST]
    width, height = style.inches(axes)
    style.blank(axes, width, height)
    left_out = f"; {len(found) - MOST} more kinds not drawn" if len(found) > MOST else ""
    style.titled(axes, "parameters and their shards", f"which devices of the stage hold each shard{left_out}")
    if not shown:
        return
    columns = _columns(width)
    cell_w, cell_h = width / columns, min(CELL[1], height / -(-len(shown) // columns))
    for n, kind in enumerate(shown):
        row, column = divmod(n, columns)
        _kind(axes, kind, (column * cell_w, row * cell_h), cell_w - 0.2, cell_h - 0.12)


def height(record: PlanRecord, width: float) -> float:
    """Inches that the picture needs at a width."""
    shown = min(MOST, len(kinds(record)))
    return max(1, -(-shown // _columns(width))) * CELL[1]


def _columns(width: float) -> int:
    return max(1, int(width / CELL[0]))


def kinds(record: PlanRecord) -> list[Kind]:
    """The distinct kinds: those that are cut before those that are whole, then those with most elements first."""
    groups: dict[tuple[object, ...], list[ParamPlan]] = {}
    for p in record.params:
        stage = record.stages[p.home]
        key = (re.sub(r"\d+", "*", p.path), p.shape, p.spec, stage.mesh_shape, stage.mesh_axes)
        groups.setdefault(key, []).append(p)
    made = []
    for group in groups.values():
        first, stage = group[0], record.stages[group[0].home]
        name = re.sub(r"\d+", "*", first.path) if len(group) > 1 else first.path
        elements = len(group) * math.prod(first.shape)
        made.append(Kind(name, first, len(group), elements, stage.mesh_shape, stage.mesh_axes))
    return sorted(made, key=lambda k: (not any(k.example.spec), -k.elements, k.name))


def tiles(spec: Spec, mesh_shape: tuple[int, ...]) -> dict[tuple[int, ...], list[int]]:
    """Shard index (a number per dimension) -> the devices, numbered row-major over the mesh, that hold that shard."""
    held: dict[tuple[int, ...], list[int]] = {}
    for device in range(math.prod(mesh_shape)):
        rest, place = device, []
        for size in reversed(mesh_shape):
            rest, coordinate = divmod(rest, size)
            place.insert(0, coordinate)
        shard = []
        for axes in spec:
            index = 0
            for a in axes:
                index = index * mesh_shape[a] + place[a]
            shard.append(index)
        held.setdefault(tuple(shard), []).append(device)
    return held


def _kind(axes: Axes, kind: Kind, corner: tuple[float, float], width: float, height: float) -> None:
    x, y = corner
    p = kind.example
    times = f"  × {kind.count}" if kind.count > 1 else ""
    shape = "×".join(map(str, p.shape)) or "scalar"
    lines = (_shortened(kind.name, times, width), f"{shape} {p.dtype}", to_text(p.spec, kind.mesh_axes))
    step = 1.3 * style.SMALL / 72
    for n, line in enumerate(lines):
        size = style.fitting((line,), width, 1.0, (style.SMALL, style.TINY)) or (line, style.TINY)
        axes.text(x, y + (n + 0.5) * step, line, fontsize=size[1], va="center", clip_on=True,
                  fontweight="bold" if n == 0 else "normal", color=style.INK if n != 1 else style.FAINT)
    _tiles(axes, kind, (x, y + 3.4 * step), width, height - 3.6 * step)


def _tiles(axes: Axes, kind: Kind, corner: tuple[float, float], width: float, height: float) -> None:
    held = tiles(kind.example.spec, kind.mesh_shape)
    cut = [d for d, named in enumerate(kind.example.spec) if named]
    counts = {d: 1 + max(shard[d] for shard in held) for d in cut}
    down = cut[:1] if len(cut) > 1 or (cut and cut[0] < len(kind.example.spec) - 1) else []
    across = [d for d in cut if d not in down]
    rows, columns = math.prod(counts[d] for d in down), math.prod(counts[d] for d in across)
    wide, high = min(width, 1.6) / columns, min(height, 1.0) / rows
    for shard, devices in sorted(held.items()):
        row, column = _index(shard, down, counts), _index(shard, across, counts)
        colour = _colour(row * columns + column, rows * columns)
        x, y = corner[0] + column * wide, corner[1] + row * high
        axes.add_patch(Rectangle((x, y), wide, high, facecolor=colour, edgecolor="white", linewidth=0.6))
        text = "all" if len(held) == 1 and len(devices) > 1 else units.ranges(devices)
        label = style.fitting((text, f"{len(devices)} devices"), wide, high, (style.SMALL, style.TINY))
        if label:
            axes.text(x + wide / 2, y + high / 2, label[0], ha="center", va="center", fontsize=label[1],
                      color=style.ink_on(colour))


def _index(shard: tuple[int, ...], dims: list[int], counts: dict[int, int]) -> int:
    index = 0
    for d in dims:
        index = index * counts[d] + shard[d]
    return index


def _colour(index: int, count: int) -> style.Rgb:
    """Grey for a whole tensor, the palette for few shards, an even scale (cividis) for many."""
    if count == 1:
        return style.mixed((0.73, 0.73, 0.73), 1.0, 0.2)
    if count <= len(style.PALETTE):
        return style.stage_colour(index)
    r, g, b, _ = matplotlib.colormaps["cividis"](index / (count - 1))
    return (r, g, b)


def _shortened(name: str, times: str, width: float) -> str:
    """The path, its beginning left out where it is too long for the width."""
    room = int(width * 72 / (0.62 * style.SMALL)) - len(times)
    return (name if len(name) <= room else "…" + name[len(name) - max(4, room - 1):]) + times
