"""Memory of a device of each rank (a stage, or those that share its devices), stacked by kind, against what a device
has."""

from matplotlib.axes import Axes

from planner.core.plan import PlanRecord
from planner.report import breakdown, units
from planner.report.figures import style

NEAR = 0.3
"""The capacity line is inside the picture when the fullest device uses at least this part of it."""


def draw(axes: Axes, record: PlanRecord) -> None:
    """Draw one bar a rank into the axes."""
    fullest, layout = record.peak_bytes, record.layout
    has = [breakdown.kind_of_rank(record, rank).device.memory_bytes for rank in range(layout.ranks)]
    capacity = max(has)
    unit, scale = units.common_size([fullest])
    shown = max(fullest, capacity) if fullest >= NEAR * capacity else fullest
    _, height = style.inches(axes)
    slot = height / layout.ranks
    for row in range(layout.ranks):
        left = 0.0
        parts = breakdown.memory_of(record.stages[s] for s in layout.stages_of(row))
        for part, colour in zip(parts, style.MEMORY_COLOURS, strict=True):
            axes.barh(row, part / scale, left=left, height=min(0.8, 0.45 / slot), color=colour, edgecolor="white",
                      linewidth=0.4)
            left += part / scale
        over = record.rank_bytes[row] > has[row]
        axes.text(left + 0.01 * shown / scale, row, f"{units.plain(left)}", va="center", fontsize=style.SMALL,
                  color=style.ALARM if over else style.INK)
    axes.set_yticks(range(layout.ranks), [units.row_name(layout, r) for r in range(layout.ranks)],
                    fontsize=style.SMALL)
    axes.set_ylim(layout.ranks - 0.5, -0.5)
    axes.set_xlim(0, 1.14 * shown / scale or 1)
    axes.tick_params(labelsize=style.SMALL, length=2)
    axes.set_xlabel(f"{unit} on each device", fontsize=style.SMALL)
    note = f"capacity {' or '.join(units.size(c) for c in dict.fromkeys(has))}"
    if fullest >= NEAR * capacity:
        for row, each in enumerate(has):
            axes.plot([each / scale] * 2, [row - 0.5, row + 0.5], color=style.ALARM, linestyle="--", linewidth=1.2)
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
