"""A step as it was measured above the same step as it was simulated: two rows a rank, one axis of time.

A bar is a task from its first device's start to its last one's end; the darker strip at its foot is how much of that
the devices are at work, in the mean. The row below has the simulated tasks, their collectives in the way they are
waited for. The top row is the host, calling programs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from planner.core import programs
from planner.core.plan import PlanRecord
from planner.report import units
from planner.report.figures import style
from planner.report.figures.timetable import COLOURS, LEGEND, SEEN, joined
from planner.report.measured import MeasuredStep, MeasuredTask
from planner.simulate import Stream, Work, simulate

SHOWN_AS = MappingProxyType({
    programs.FORWARD: Work.FORWARD, programs.BACKWARD: Work.BACKWARD, programs.INPUT_GRADIENT: Work.INPUT_GRADIENT,
    programs.WEIGHT_GRADIENT: Work.WEIGHT_GRADIENT, programs.UPDATE: Work.UPDATE, programs.FINISH: Work.SYNC})
OTHER = "#BBBBBB"
HEIGHT = 0.36
"""Of a bar, in rows."""
AHEAD = 0.15
"""Part of the width that is drawn of what the host did before the devices began."""


@dataclass(frozen=True)
class _Bar:
    row: float
    start_s: float
    end_s: float
    work: Work | None
    label: str
    busy: float | None = None


def draw(axes: Axes, record: PlanRecord, step: MeasuredStep) -> None:
    """Draw both into the axes."""
    line = simulate(record)
    end = max(step.step_time_s, line.step_time_s)
    first = max(-AHEAD * end, min((call.start_s for call in step.calls), default=0.0))
    span = end - min(0.0, first)
    bars = [*_measured(record, step), *_predicted(record, SEEN * span)]
    width, height = style.inches(axes)
    rows = 2 * record.layout.ranks + 1
    for bar in bars:
        _draw(axes, bar, span / width, height / rows)
    names = [units.rank_name(record.layout, rank) for rank in range(record.layout.ranks)]
    axes.set_yticks([-1, *(r + x for r in range(len(names)) for x in (-0.2, 0.2))],
                    ["host", *(text for name in names for text in (name, "predicted"))],
                    fontsize=style.TINY)
    axes.set_ylim(len(names) - 0.5, -1.4)
    unit, scale = units.common_time([end])
    axes.set_xlim(min(0.0, first), end)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x / scale:.6g}")
    axes.tick_params(length=2, labelsize=style.TINY)
    axes.set_xlabel(unit, fontsize=style.SMALL)
    style.titled(axes, f"measured and predicted, {record.schedule}",
                 f"measured {units.seconds(step.step_time_s)}, predicted {units.seconds(line.step_time_s)}"
                 f"{_host_note(step)}")
    works = [work for work in COLOURS if any(bar.work == work for bar in bars)]
    axes.legend([Rectangle((0, 0), 1, 1, facecolor=COLOURS[work]) for work in works], [LEGEND[work] for work in works],
                loc="upper left", bbox_to_anchor=(0.0, -0.45 / height), ncols=max(1, len(works)),
                fontsize=style.SMALL, frameon=False, handlelength=1.0, handletextpad=0.4)


def _host_note(step: MeasuredStep) -> str:
    """By how much the host was done before the devices."""
    last = max((call.end_s for call in step.calls), default=step.step_time_s)
    ahead = step.step_time_s - last
    return f"; the host had started it all {units.seconds(ahead)} before its end" if ahead > 0 else ""


def _measured(record: PlanRecord, step: MeasuredStep) -> Iterator[_Bar]:
    for call in step.calls:
        yield _Bar(-1.0, call.start_s, call.end_s, SHOWN_AS.get(call.work), _label(call))
    for task in step.tasks:
        whole = task.end_s - task.start_s
        yield _Bar(record.layout.rank_of[task.stage] - 0.2, task.start_s, task.end_s, SHOWN_AS.get(task.work),
                   _label(task), task.busy_s / whole if whole else None)


def _predicted(record: PlanRecord, gap_s: float) -> Iterator[_Bar]:
    shown = [i for i in simulate(record).intervals if i.stream is Stream.COMPUTE]
    for i in joined(shown, gap_s):
        yield _Bar(record.layout.rank_of[i.stage] + 0.2, i.start_s, i.end_s, i.work,
                   "" if i.microbatch is None else str(i.microbatch))


def _label(task: MeasuredTask) -> str:
    return "" if task.microbatch is None else str(task.microbatch)


def _draw(axes: Axes, bar: _Bar, per_inch: float, row_inches: float) -> None:
    colour = OTHER if bar.work is None else COLOURS[bar.work]
    length, top = bar.end_s - bar.start_s, bar.row - HEIGHT / 2
    line = 0.6 if length / per_inch > 0.06 else 0.0
    axes.add_patch(Rectangle((bar.start_s, top), length, HEIGHT, facecolor=colour, edgecolor="white", linewidth=line))
    if bar.busy is not None:
        axes.add_patch(Rectangle((bar.start_s, top + 0.85 * HEIGHT), length * min(1.0, bar.busy), 0.15 * HEIGHT,
                                 facecolor=style.INK, linewidth=0.0))
    fits = style.fitting((bar.label,), length / per_inch, HEIGHT * row_inches * 2, (style.SMALL, style.TINY))
    if bar.label and fits:
        axes.text(bar.start_s + length / 2, bar.row, fits[0], ha="center", va="center", fontsize=fits[1],
                  color="black", clip_on=True)
