"""Memory of a device of each stage, stacked by kind, against what a device has."""

from matplotlib.axes import Axes

from planner.core.plan import PlanRecord
from planner.report import breakdown, units
from planner.report.figures import style

NEAR = 0.3
"""The capacity line is inside the picture when the fullest device uses at least this part of it."""


def draw(axes: Axes, record: PlanRecord) -> None:
    """Draw one bar a stage into the axes."""
    capacity = record.cluster.device.memory_bytes
    fullest = max((s.memory.total_bytes for s in record.stages), default=0)
    unit, scale = units.common_size([fullest])
    shown = max(fullest, capacity) if fullest >= NEAR * capacity else fullest
    _, height = style.inches(axes)
    slot = height / max(1, len(record.stages))
    for row, stage in enumerate(record.stages):
        left = 0.0
        for part, colour in zip(breakdown.memory_parts(stage), style.MEMORY_COLOURS, strict=True):
            axes.barh(row, part / scale, left=left, height=min(0.8, 0.45 / slot), color=colour, edgecolor="white",
                      linewidth=0.4)
            left += part / scale
        over = stage.memory.total_bytes > capacity
        axes.text(left + 0.01 * shown / scale, row, f"{units.plain(left)}", va="center", fontsize=style.SMALL,
                  color=style.ALARM if over else style.INK)
    axes.set_yticks(range(len(record.stages)), [f"stage {s.index}" for s in record.stages], fontsize=style.SMALL)
    axes.set_ylim(len(record.stages) - 0.5, -0.5)
    axes.set_xlim(0, 1.14 * shown / scale or 1)
    axes.tick_params(labelsize=style.SMALL, length=2)
    axes.set_xlabel(f"{unit} on each device", fontsize=style.SMALL)
    note = f"capacity {units.size(capacity)}"
    if fullest >= NEAR * capacity:
        axes.axvline(capacity / scale, color=style.ALARM, linestyle="--", linewidth=1.2)
        note += " (dashed)"
    else:
        note += f", {100 * fullest / capacity:.1f} % used at most"
    style.titled(axes, "memory by kind", note)
    _legend(axes)


def _legend(axes: Axes) -> None:
    _, height = style.inches(axes)
    handles = [axes.barh([0], [0], color=colour) for colour in style.MEMORY_COLOURS]
    axes.legend(handles, breakdown.MEMORY_KINDS, loc="upper center", bbox_to_anchor=(0.5, -0.48 / height), ncols=5,
                fontsize=style.SMALL, frameon=False, handlelength=1.0, handletextpad=0.4, columnspacing=1.0)
