"""Pictures of a plan as PNG, SVG or PDF files: one kind, or an overview of all on one sheet.

In: a `PlanRecord`. Out: a file, the same bytes for equal plans, that appears whole or not at all. matplotlib is
imported with this module, so whoever needs no picture does not import it.
"""

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from planner.core.files import write_atomically
from planner.core.plan import PlanRecord
from planner.errors import PlannerError, UnknownNameError
from planner.report.figures import (
    causes,
    devices,
    graph,
    measured,
    memory,
    memory_curve,
    operators,
    shardings,
    style,
    timetable,
)
from planner.report.formats import check_format
from planner.report.measured import MeasuredStep


@dataclass(frozen=True)
class Picture:
    """A kind of picture: how it is drawn, and its size in inches as a function of the plan."""

    draw: Callable[[Axes, PlanRecord], None]
    size: Callable[[PlanRecord], tuple[float, float]]


def pictures() -> dict[str, Picture]:
    """The kinds, in the order of the overview."""
    return {
        "devices": Picture(devices.draw, lambda r: (9, max(1.6, min(14, 0.62 * _nodes(r))))),
        "timetable": Picture(timetable.draw, lambda r: (15, max(1.1, 0.34 * r.layout.ranks))),
        "memory-curve": Picture(memory_curve.draw, lambda r: (15, max(1.1, 0.34 * r.layout.ranks))),
        "memory": Picture(memory.draw, lambda r: (9, max(1.0, 0.32 * r.layout.ranks))),
        "time": Picture(causes.draw, lambda r: (9, max(1.0, 0.32 * r.layout.ranks))),
        "graph": Picture(graph.draw, lambda r: (11, graph.height(r, 11))),
        "shardings": Picture(shardings.draw, lambda r: (11, shardings.height(r, 11))),
        "operators": Picture(operators.draw, lambda r: (11, operators.height(r))),
    }


def plot(record: PlanRecord, path: str | os.PathLike[str], kind: str = "all", layer: int | None = None) -> None:
    """Draw one kind of picture, or an overview on one sheet, into a file whose ending gives the format. `layer`: whose
    parallel operators are drawn, with those of layers alike to it; None: of those that communicate longest.

    Raises:
      UnknownNameError: there is no such kind.
      PlannerError: the ending is not a known format, or the file cannot be written.
    """
    place = Path(path)
    check_format(place)
    if kind != "all" and kind not in pictures():
        raise UnknownNameError("kind of picture", kind, ("all", *pictures()))
    with matplotlib.rc_context(dict(style.RC)):
        figure = _overview(record) if kind == "all" else _single(record, _picture(record, kind, layer))
        write(figure, place)


def _picture(record: PlanRecord, kind: str, layer: int | None) -> Picture:
    if layer is None:
        return pictures()[kind]
    if kind != "operators":
        raise PlannerError(f"a picture of kind {kind!r} is of all layers", "leave the layer out, or draw operators")
    if not 0 <= layer < len(record.layers):
        raise PlannerError(f"there is no layer {layer}", f"the plan has layers 0 to {len(record.layers) - 1}")
    return Picture(lambda axes, r: operators.draw(axes, r, layer), lambda r: (11, operators.height(r, layer)))


def plot_measured(record: PlanRecord, step: MeasuredStep, path: str | os.PathLike[str]) -> None:
    """Draw a measured step above the simulated one into a file whose ending gives the format.

    Raises:
      PlannerError: the ending is not a known format, or the file cannot be written.
    """
    place = Path(path)
    check_format(place)
    picture = Picture(lambda axes, r: measured.draw(axes, r, step), lambda r: (15, 0.5 + 0.8 * r.layout.ranks))
    with matplotlib.rc_context(dict(style.RC)):
        write(_single(record, picture), place)


def _single(record: PlanRecord, picture: Picture) -> Figure:
    width, height = picture.size(record)
    return _sheet([[(picture, width)]], record, [height], width)


def _overview(record: PlanRecord) -> Figure:
    of = pictures()
    top = max(1.6, *(min(5.5, of[name].size(record)[1]) for name in ("devices", "memory")))
    last = max(graph.height(record, 7.4), shardings.height(record, 7.4))
    rows = [[(of["devices"], 7.4), (of["memory"], 7.4)], [(of["timetable"], 15.6)],
            [(of["memory-curve"], 15.6)], [(of["time"], 15.6)],
            [(of["graph"], 7.4), (of["shardings"], 7.4)]]
    middle = [min(5.5, of[name].size(record)[1]) for name in ("timetable", "memory-curve", "time")]
    return _sheet(rows, record, [top, *middle, last], 15.6)


def _sheet(rows: list[list[tuple[Picture, float]]], record: PlanRecord, heights: list[float], width: float) -> Figure:
    """Pictures in rows, each of its own width and height in inches, at fixed places, so that texts can be fitted."""
    left, right, top, below, head = 0.75, 0.25, 0.35, 0.75, 0.4
    whole_w = left + width + right
    whole_h = head + sum(top + h + below for h in heights)
    figure = Figure(figsize=(whole_w, whole_h))
    FigureCanvasAgg(figure)
    nodes = f"{record.device_count} devices of {record.cluster.name}"
    figure.text(left / whole_w, 1 - 0.24 / whole_h, f"{record.model_name} on {nodes}", fontsize=style.TITLE + 2,
                fontweight="bold", va="center")
    y = whole_h - head
    for row, height in zip(rows, heights, strict=True):
        y -= top + height
        x = left
        spare = width - sum(w for _, w in row)
        for picture, wide in row:
            axes = figure.add_axes((x / whole_w, y / whole_h, wide / whole_w, height / whole_h))
            picture.draw(axes, record)
            x += wide + spare / max(1, len(row) - 1)
        y -= below
    return figure


def write(figure: Figure, place: Path) -> None:
    """Write a figure into a file, whole or not at all, the same bytes for equal figures. Raises `PlannerError`."""
    kind = place.suffix.lower()[1:]
    metadata = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None},
                "pdf": {"CreationDate": None, "Producer": None, "Creator": None}}[kind]
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=120, metadata=metadata)
    try:
        write_atomically(place, content.getvalue())
    except OSError as fault:
        raise PlannerError(f"cannot write {place}: {fault.strerror or fault}",
                           "give a path in a folder that can be written") from fault


def _nodes(record: PlanRecord) -> int:
    return record.cluster.nodes
