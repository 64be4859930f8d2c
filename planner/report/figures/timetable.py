"""The pipeline's timetable: what every stage does when, with bubbles left white.

Long steps are drawn in two windows, the filling and the draining of the pipeline; between them the pattern repeats and
is left out. The times are those of `planner.simulate`.
"""

from dataclasses import dataclass
from types import MappingProxyType

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from planner.core.plan import PlanRecord
from planner.report import units
from planner.report.figures import style
from planner.simulate import Interval, simulate

COLOURS = MappingProxyType({"forward": "#56B4E9", "backward": "#E69F00", "update": "#009E73"})
LEGEND = MappingProxyType({"forward": "forward", "backward": "backward", "update": "gradient sync, update"})
SHOWN = 26
"""Microbatch times that fit readably into the width; a longer step is cut into two windows."""


@dataclass(frozen=True)
class Window:
    """Seconds [start, end) drawn from `x` on, in the axes' own unit (seconds of drawn time)."""

    start: float
    end: float
    x: float


def draw(axes: Axes, record: PlanRecord) -> None:
    """Draw the timetable into the axes."""
    bars = simulate(record).intervals
    shown = windows(bars, record)
    width, height = style.inches(axes)
    span = shown[-1].x + shown[-1].end - shown[-1].start
    per_inch, rows = span / width, len(record.stages)
    for window in shown:
        for bar in bars:
            start, end = max(bar.start_s, window.start), min(bar.end_s, window.end)
            if start < end:
                _bar(axes, bar, window.x + start - window.start, end - start, per_inch, height / rows)
    _time_axis(axes, shown)
    if len(shown) == 2:
        gap = (shown[0].end + shown[1].x) / 2
        hidden = units.seconds(shown[1].start - shown[0].end)
        axes.text(gap, rows / 2 - 0.5, f"{hidden}\nof the same,\nnot drawn", ha="center", va="center",
                  fontsize=style.TINY, color=style.FAINT, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    axes.set_yticks(range(rows), [f"stage {s.index}" for s in record.stages], fontsize=style.SMALL)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_xlim(0, span)
    style.titled(axes, f"timetable, {record.schedule}" if rows > 1 else "timetable",
                 f"{units.plural(record.microbatches, 'microbatch')}, numbered; white is idle; "
                 f"the step is predicted to take {units.seconds(record.step_time_s)}")
    _legend(axes, bars)


def windows(bars: tuple[Interval, ...], record: PlanRecord) -> tuple[Window, ...]:
    """The whole step in one window, or its first and last part with a gap between."""
    whole = max((b.end_s for b in bars), default=1.0)
    slot = max((s.time.microbatch_s + s.send_s for s in record.stages), default=whole)
    half = slot * max(SHOWN / 2, len(record.stages) + 4)
    if whole <= 2 * half:
        return (Window(0.0, whole, 0.0),)
    return Window(0.0, half, 0.0), Window(whole - half, whole, 1.1 * half)


def _bar(axes: Axes, bar: Interval, x: float, length: float, per_inch: float, row_inches: float) -> None:
    colour = COLOURS[_phase(bar)]
    axes.add_patch(Rectangle((x, bar.stage - 0.4), length, 0.8, facecolor=colour, edgecolor="white",
                             linewidth=0.6 if length / per_inch > 0.06 else 0.1))
    if bar.task is None:
        return
    label = style.fitting((str(bar.task.microbatch),), length / per_inch, 0.8 * row_inches, (style.SMALL, style.TINY))
    if label:
        axes.text(x + length / 2, bar.stage, label[0], ha="center", va="center", fontsize=label[1], color="black")


def _phase(bar: Interval) -> str:
    return "update" if bar.task is None else str(bar.task.phase)


def _time_axis(axes: Axes, shown: tuple[Window, ...]) -> None:
    unit, scale = units.common_time([shown[-1].end])
    places, names = [], []
    for window in shown:
        for tick in MaxNLocator(8 // len(shown)).tick_values(window.start / scale, window.end / scale):
            if window.start <= tick * scale <= window.end:
                places.append(window.x + tick * scale - window.start)
                names.append(f"{tick:.6g}")
    axes.set_xticks(places, names, fontsize=style.SMALL)
    axes.tick_params(length=2)
    axes.set_xlabel(unit, fontsize=style.SMALL)


def _legend(axes: Axes, bars: tuple[Interval, ...]) -> None:
    _, height = style.inches(axes)
    phases = [phase for phase in COLOURS if any(_phase(b) == phase for b in bars)]
    handles = [Rectangle((0, 0), 1, 1, facecolor=COLOURS[phase]) for phase in phases]
    axes.legend(handles, [LEGEND[phase] for phase in phases], loc="upper left", bbox_to_anchor=(0.0, -0.28 / height),
                ncols=3, fontsize=style.SMALL, frameon=False, handlelength=1.0, handletextpad=0.4)
