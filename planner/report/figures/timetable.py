"""The pipeline's timetable: what every rank does when, with bubbles left white.

A rank is a stage, or the stages that share its devices, the later ones in lighter shades. Its arithmetic is a row of
numbered bars; a strip below it shows communication inside the stage, and one more the links it receives by, where some
of it runs beside arithmetic. Long steps are drawn in two windows, the filling and the draining of the pipeline; between
them the pattern repeats and is left out. The times are those of `planner.simulate`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import MappingProxyType

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from planner.core.layout import Layout
from planner.core.plan import PlanRecord
from planner.report import units
from planner.report.figures import style
from planner.simulate import Interval, Stream, Timeline, Work, simulate

COLOURS = MappingProxyType({
    Work.FORWARD: "#56B4E9", Work.BACKWARD: "#E69F00", Work.INPUT_GRADIENT: "#E69F00",
    Work.WEIGHT_GRADIENT: "#F0E442", Work.UPDATE: "#009E73", Work.SYNC: "#CC79A7",
    Work.GATHER: "#0072B2", Work.REDUCE: "#D55E00", Work.HAND_OVER: "#888888"})
LEGEND = MappingProxyType({
    Work.FORWARD: "forward", Work.BACKWARD: "backward", Work.INPUT_GRADIENT: "input gradient",
    Work.WEIGHT_GRADIENT: "weight gradient", Work.UPDATE: "update", Work.SYNC: "gradient sync",
    Work.GATHER: "parameter gather", Work.REDUCE: "reductions, resharding", Work.HAND_OVER: "hand-over"})
TASKS = (Work.FORWARD, Work.BACKWARD, Work.INPUT_GRADIENT, Work.WEIGHT_GRADIENT)
SHOWN = 26
"""Microbatch times that fit readably into the width; a longer step is cut into two windows."""
SEEN = 5e-4
"""Part of the width below which an interval is joined with its neighbour of the same kind: it would not be seen."""
ROWS = MappingProxyType({Stream.COMPUTE: (-0.42, 0.18), Stream.COLLECTIVE: (0.2, 0.34), Stream.LINK: (0.36, 0.44)})
WHOLE = MappingProxyType({Stream.COMPUTE: (-0.4, 0.4)})
"""Where the streams lie in a stage's row, of height 1; without strips, arithmetic has it all."""


@dataclass(frozen=True)
class Window:
    """Seconds [start, end) drawn from `x` on, in the axes' own unit (seconds of drawn time)."""

    start: float
    end: float
    x: float


def draw(axes: Axes, record: PlanRecord) -> None:
    """Draw the timetable into the axes."""
    line = simulate(record)
    shown = windows(line, record)
    width, height = style.inches(axes)
    span = shown[-1].x + shown[-1].end - shown[-1].start
    layout = record.layout
    per_inch, rows = span / width, layout.ranks
    lanes = ROWS if any(s.hidden_s > 0 for s in line.stages) else WHOLE
    seen: set[Work] = set()
    for window in shown:
        inside = [i for i in line.between(window.start, window.end) if i.stream in lanes]
        for bar in joined(inside, SEEN * span):
            start, end = max(bar.start_s, window.start), min(bar.end_s, window.end)
            seen.add(bar.work)
            lane = Lane(*lanes[bar.stream], layout.rank_of[bar.stage], height / rows, per_inch)
            _bar(axes, bar, window.x + start - window.start, end - start, lane, bar_colour(bar, layout))
    time_axis(axes, shown)
    if len(shown) == 2:
        gap = (shown[0].end + shown[1].x) / 2
        hidden = units.seconds(shown[1].start - shown[0].end)
        axes.text(gap, rows / 2 - 0.5, f"{hidden}\nof the same,\nnot drawn", ha="center", va="center",
                  fontsize=style.TINY, color=style.FAINT, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    axes.set_yticks(range(rows), [units.row_name(layout, r) for r in range(rows)], fontsize=style.SMALL)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_xlim(0, span)
    style.titled(axes, f"timetable, {record.schedule}" if rows > 1 else "timetable", _note(line, record))
    _legend(axes, seen)


def _note(line: Timeline, record: PlanRecord) -> str:
    hidden = f", {units.share(line.overlap)} of communication hidden" if line.overlap else ""
    return (f"{units.plural(record.microbatches, 'microbatch')}, numbered; white is idle: {units.share(line.bubble)}"
            f"{hidden}; the step is predicted to take {units.seconds(record.step_time_s)}")


def windows(line: Timeline, record: PlanRecord) -> tuple[Window, ...]:
    """The whole step in one window, or its first and last part with a gap between."""
    whole = line.step_time_s or 1.0
    layout = record.layout
    slot = max(sum(record.stages[s].time.microbatch_s + record.stages[s].send_s for s in layout.stages_of(rank))
               for rank in range(layout.ranks))
    half = slot * max(SHOWN / 2, layout.ranks + 4)
    if whole <= 2 * half:
        return (Window(0.0, whole, 0.0),)
    return Window(0.0, half, 0.0), Window(whole - half, whole, 1.1 * half)


def joined(bars: Iterable[Interval], gap_s: float) -> list[Interval]:
    """Intervals of one stream that follow each other closely and do the same for the same microbatch, as one."""
    found: list[Interval] = []
    order = sorted(bars, key=lambda i: (i.stage, i.stream, i.work, -1 if i.microbatch is None else i.microbatch,
                                        i.start_s))
    for bar in order:
        before = found[-1] if found else None
        if before and (before.stage, before.stream, before.work, before.microbatch) == \
                (bar.stage, bar.stream, bar.work, bar.microbatch) and bar.start_s - before.end_s <= gap_s:
            found[-1] = replace(before, end_s=max(before.end_s, bar.end_s), layer=None)
        else:
            found.append(bar)
    return sorted(found, key=lambda i: (i.stage, i.start_s))


@dataclass(frozen=True)
class Lane:
    """Where a stream lies in its rank's row, from top to bottom; inches of a row; units of the axes in an inch."""

    top: float
    bottom: float
    row: int
    row_inches: float
    per_inch: float


def bar_colour(bar: Interval, layout: Layout) -> style.Rgb:
    """The colour of what is done; the later a stage among those of its rank, the lighter."""
    chunk = layout.stages_of(layout.rank_of[bar.stage]).index(bar.stage)
    return style.mixed(to_rgb(COLOURS[bar.work]), 1.0, 0.55 * chunk / max(1, layout.chunks - 1))


def _bar(axes: Axes, bar: Interval, x: float, length: float, lane: Lane, colour: style.Rgb) -> None:
    axes.add_patch(Rectangle((x, lane.row + lane.top), length, lane.bottom - lane.top, facecolor=colour,
                             edgecolor="white", linewidth=0.6 if length / lane.per_inch > 0.06 else 0.0))
    if bar.microbatch is None or bar.work not in TASKS:
        return
    label = style.fitting((str(bar.microbatch),), length / lane.per_inch, (lane.bottom - lane.top) * lane.row_inches,
                          (style.SMALL, style.TINY))
    if label:
        axes.text(x + length / 2, lane.row + (lane.top + lane.bottom) / 2, label[0], ha="center", va="center",
                  fontsize=label[1], color="black")


def time_axis(axes: Axes, shown: tuple[Window, ...]) -> None:
    """Ticks of the windows' own times."""
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


def _legend(axes: Axes, seen: set[Work]) -> None:
    _, height = style.inches(axes)
    works = [work for work in COLOURS if work in seen]
    handles = [Rectangle((0, 0), 1, 1, facecolor=COLOURS[work]) for work in works]
    axes.legend(handles, [LEGEND[work] for work in works], loc="upper left", bbox_to_anchor=(0.0, -0.28 / height),
                ncols=len(works), fontsize=style.SMALL, frameon=False, handlelength=1.0, handletextpad=0.4)
