"""Memory of a device of each rank over time, a row a rank, under the timetable's windows; the dashed line is what a
device has."""

import numpy as np
from matplotlib.axes import Axes

from planner.core.plan import PlanRecord
from planner.report import units
from planner.report.breakdown import kind_of_rank
from planner.report.figures import style
from planner.report.figures.memory import NEAR
from planner.report.figures.timetable import Window, time_axis, windows
from planner.simulate import MemoryCurve, simulate

TALL = 0.86
"""Part of a row that the fullest device, or the capacity line, reaches up to."""


def draw(axes: Axes, record: PlanRecord) -> None:
    """Draw one curve a rank into the axes."""
    line = simulate(record, intervals=False)
    shown = windows(line, record)
    layout = record.layout
    has = [kind_of_rank(record, rank).device.memory_bytes for rank in range(layout.ranks)]
    capacity = max(has)
    curves = [line.rank_memory_curve(rank) for rank in range(layout.ranks)]
    fullest = max(curve.peak_bytes for curve in curves)
    near = fullest >= NEAR * capacity
    top = max(fullest, capacity if near else 0.0, 1.0)
    span, rows = shown[-1].x + shown[-1].end - shown[-1].start, len(curves)
    for row, curve in enumerate(curves):
        base = row + 0.45
        for window in shown:
            _area(axes, curve, window, base, TALL / top, style.ALARM if curve.peak_bytes > has[row] else "#009E73")
        axes.text(span, base - 0.03, f"{units.size(curve.peak_bytes)} ", ha="right", va="bottom", fontsize=style.SMALL,
                  bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.6, "pad": 0.5})
        if near:
            axes.plot([0, span], [base - TALL * has[row] / top] * 2, color=style.ALARM, linestyle="--", linewidth=0.8)
    axes.set_yticks(range(rows), [units.row_name(layout, r) for r in range(rows)], fontsize=style.SMALL)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_xlim(0, span)
    time_axis(axes, shown)
    style.titled(axes, "memory over time", f"each row from 0 to {units.size(top)}; {_capacity(capacity, fullest)}; "
                 "peaks at the right")


def _area(axes: Axes, curve: MemoryCurve, window: Window, base: float, scale: float, colour: str) -> None:
    """The part of a curve in a window, from what holds at its start on."""
    first = max(0, int(np.searchsorted(curve.times_s, window.start, side="right")) - 1)
    last = int(np.searchsorted(curve.times_s, window.end, side="left"))
    times = np.clip(np.append(curve.times_s[first:last], window.end), window.start, window.end)
    held = curve.held_bytes[first:last]
    x, y = window.x + times - window.start, base - scale * np.append(held, held[-1])
    axes.fill_between(x, y, base, step="post", facecolor=colour, alpha=0.45, linewidth=0)
    axes.plot(x, y, drawstyle="steps-post", color=colour, linewidth=0.8)


def _capacity(capacity: int, fullest: float) -> str:
    if fullest >= NEAR * capacity:
        return f"dashed: capacity {units.size(capacity)}"
    return f"capacity {units.size(capacity)}, {100 * fullest / capacity:.1f} % used at most"
