"""What each rank's devices spend a step on, by cause: one bar a rank, as long as the step.

In: a `PlanRecord`. Out: axes drawn. The legend says what each cause takes of the step on the mean device.
"""

from collections.abc import Mapping
from types import MappingProxyType

from matplotlib.axes import Axes

from planner.core.plan import PlanRecord
from planner.report import units
from planner.report.causes import CAUSES, Cause, rank_causes, step_causes
from planner.report.figures import style

COLOURS: Mapping[Cause, str] = MappingProxyType({
    Cause.COMPUTE: "#0072B2", Cause.TENSOR: "#E69F00", Cause.ALL_TO_ALL: "#D55E00", Cause.RESHARD: "#F0E442",
    Cause.HALO: "#9ACD32", Cause.GATHER: "#CC79A7", Cause.SYNC: "#009E73", Cause.HAND_OVER: "#56B4E9",
    Cause.DISPATCH: "#7F4F00", Cause.OPTIMIZER: "#003B5C", Cause.HOST: "#6A3D9A", Cause.UNEVEN: "#BBBBBB",
    Cause.BUBBLE: "#E4E4E4"})
"""Waiting is grey."""

SHORT: Mapping[Cause, str] = MappingProxyType({
    Cause.TENSOR: "tensor parallel", Cause.RESHARD: "resharding", Cause.HAND_OVER: "hand-over",
    Cause.UNEVEN: "slower stages", Cause.BUBBLE: "bubble"})
"""Names in the legend, where they are shorter than the cause's own."""

IN_A_ROW = 6
"""Entries of the legend side by side: two rows have room for all."""

LEAST = 5e-4
"""Part of the step below which a cause has no entry in the legend."""


def draw(axes: Axes, record: PlanRecord) -> None:
    """Draw the bars into the axes."""
    layout, step = record.layout, record.step_time_s
    unit, scale = units.common_time([step])
    _, height = style.inches(axes)
    slot = height / layout.ranks
    for row in range(layout.ranks):
        left = 0.0
        for cause, seconds in rank_causes(record, row).items():
            axes.barh(row, seconds / scale, left=left, height=min(0.8, 0.45 / slot), color=COLOURS[cause],
                      edgecolor="white", linewidth=0.4 if seconds > 0.01 * step else 0.0)
            left += seconds / scale
    axes.set_yticks(range(layout.ranks), [units.row_name(layout, r) for r in range(layout.ranks)],
                    fontsize=style.SMALL)
    axes.set_ylim(layout.ranks - 0.5, -0.5)
    axes.set_xlim(0, step / scale or 1)
    axes.tick_params(labelsize=style.SMALL, length=2)
    axes.set_xlabel(f"{unit} of a step", fontsize=style.SMALL)
    style.titled(axes, "time by cause", f"a step takes {units.seconds(step)}")
    whole = step_causes(record)
    shown = [c for c in CAUSES if whole[c] > LEAST * step]
    handles = [axes.barh([0], [0], color=COLOURS[c]) for c in shown]
    axes.legend(handles, [f"{SHORT.get(c, c)} {units.share(whole[c] / step)}" for c in shown], loc="upper left",
                bbox_to_anchor=(-0.005, -0.4 / height), ncols=IN_A_ROW, fontsize=style.TINY, frameon=False,
                handlelength=1.0, handletextpad=0.4, columnspacing=1.0, borderpad=0.0, labelspacing=0.25,
                borderaxespad=0.0)
