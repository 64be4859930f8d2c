"""A sweep in four pictures: hours and dollars with their Pareto front, then over the number of devices the hours, the
utilisation and the memory that is left.

In: a `Sweep`. Out: axes drawn. A line is one cluster with one batch; a row without a plan leaves a gap in it.
"""

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from planner.core.sweeps import Sweep, SweepRow
from planner.report.figures import style

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", ":", "-.")


def cost(axes: Axes, sweep: Sweep) -> None:
    """Dollars over hours; what no other row beats in both is joined and named."""
    front = sweep.pareto()
    for row in sweep.rows:
        if row.hours is not None and row.usd is not None:
            axes.plot(row.hours, row.usd, MARKERS[_batch(sweep, row) % len(MARKERS)], color=_colour(sweep, row),
                      markersize=6, markeredgecolor=style.INK if row in front else "white", alpha=0.95,
                      markeredgewidth=1.2 if row in front else 0.5, zorder=3)
    stairs = [r.hours or 0.0 for r in front], [r.usd or 0.0 for r in front]
    axes.plot(*stairs, color=style.FAINT, linewidth=1.0, zorder=1, drawstyle="steps-post")
    _limits(axes, sweep)
    axes.set(xlabel="hours of the run", ylabel="USD of the run")
    _scaled(axes, [r.hours for r in sweep.rows], axes.set_xscale, axes.xaxis)
    _scaled(axes, [r.usd for r in sweep.rows], axes.set_yscale, axes.yaxis)
    axes.margins(x=0.22, y=0.18)
    _named(axes, front)
    style.titled(axes, "cost over time", "ringed and joined: no other is faster and cheaper")


def hours(axes: Axes, sweep: Sweep) -> None:
    """Hours over devices."""
    _lines(axes, sweep, lambda r: r.hours, "hours of the run")
    _scaled(axes, [r.hours for r in sweep.rows], axes.set_yscale, axes.yaxis)
    style.titled(axes, "time")


def utilisation(axes: Axes, sweep: Sweep) -> None:
    """Model FLOPs utilisation over devices."""
    _lines(axes, sweep, lambda r: None if r.mfu is None else 100 * r.mfu, "% of the devices' peak")
    axes.set_ylim(0, None)
    style.titled(axes, "utilisation")


def memory(axes: Axes, sweep: Sweep) -> None:
    """What the fullest device has left, over devices."""
    _lines(axes, sweep, lambda r: None if r.headroom_bytes is None else r.headroom_bytes / 1e9,
           "GB left on the fullest device")
    axes.set_ylim(0, None)
    style.titled(axes, "memory left")


def legend(sweep: Sweep) -> list[Line2D]:
    """A handle a cluster, by colour, and one a batch, by marker and line."""
    clusters = dict.fromkeys(r.cluster for r in sweep.rows)
    batches = dict.fromkeys(r.batch for r in sweep.rows)
    found = [Line2D([], [], color=style.stage_colour(n), linewidth=3, label=name) for n, name in enumerate(clusters)]
    return found + [Line2D([], [], color=style.INK, marker=MARKERS[n % len(MARKERS)], markersize=5,
                           linestyle=LINES[n % len(LINES)], linewidth=1, label=f"batch {batch:,}")
                    for n, batch in enumerate(batches)]


def _lines(axes: Axes, sweep: Sweep, value: Callable[[SweepRow], float | None], label: str) -> None:
    names = list(dict.fromkeys(r.cluster for r in sweep.rows))
    for cluster, batch in dict.fromkeys((r.cluster, r.batch) for r in sweep.rows):
        mine = sorted((r for r in sweep.rows if (r.cluster, r.batch) == (cluster, batch)), key=lambda r: r.devices)
        values = [float("nan") if (v := value(r)) is None else v for r in mine]
        n = _batch(sweep, mine[0])
        wider = len(names) - 1 - names.index(cluster)  # so that lines on top of each other are all seen
        axes.plot([r.devices for r in mine], values, LINES[n % len(LINES)], marker=MARKERS[n % len(MARKERS)],
                  markersize=4.5 + 1.2 * wider, color=_colour(sweep, mine[0]), linewidth=1.3 + 0.9 * wider)
    counts = sorted({r.devices for r in sweep.rows})
    axes.set(xlabel="devices", ylabel=label)
    if len(counts) > 1:
        axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [f"{c:,}" for c in counts])
    axes.set_xticks([], minor=True)


def _scaled(axes: Axes, values: list[float | None], scale: Callable[[str], object], axis: object) -> None:
    """Logarithmic where values span more than four times, with numbers that can be read."""
    known = [v for v in values if v]
    if not known or max(known) <= 4 * min(known):
        return
    scale("log")
    ticks = _ticks(min(known), max(known))
    axis.set_ticks(ticks, [f"{t:,.6g}" for t in ticks])  # type: ignore[attr-defined]
    axis.set_ticks([], minor=True)  # type: ignore[attr-defined]


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 times powers of ten between two numbers; of many, the powers alone."""
    found = [m * 10.0 ** e for e in range(-9, 16) for m in (1, 2, 5) if low / 1.3 <= m * 10.0 ** e <= high * 1.3]
    return found if len(found) <= 9 else [t for t in found if f"{t:e}".startswith("1.0")]


def _named(axes: Axes, front: Sequence[SweepRow]) -> None:
    """Write to the lower left of points of the front, where no other point is (of the cheapest, to the lower right),
    what they are, as far as names don't run into each other."""
    placed: list[tuple[float, float]] = []
    for row in front:
        last = row is front[-1]
        x, y = axes.transData.transform((row.hours or 0.0, row.usd or 0.0)) * 72 / axes.figure.dpi
        wide = 72 * style.text_inches(row.place, style.TINY)[0]
        for down in (10, 18):
            if last or all(abs(y - down - b) > 1.2 * style.TINY or abs(x - a) > wide for a, b in placed):
                placed.append((x, y - down))
                axes.annotate(row.place, (row.hours or 0.0, row.usd or 0.0), (4 if last else -4, -down),
                              textcoords="offset points", ha="left" if last else "right", fontsize=style.TINY, zorder=2,
                              bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.5})
                break


def _limits(axes: Axes, sweep: Sweep) -> None:
    if sweep.budget_usd is not None:
        axes.axhline(sweep.budget_usd, color=style.ALARM, linestyle="--", linewidth=1)
        axes.annotate("budget", (1, sweep.budget_usd), (-2, 3), ("axes fraction", "data"), "offset points", ha="right",
                      fontsize=style.TINY, color=style.ALARM)
    if sweep.deadline_h is not None:
        axes.axvline(sweep.deadline_h, color=style.ALARM, linestyle="--", linewidth=1)
        axes.annotate("deadline", (sweep.deadline_h, 1), (3, -8), ("data", "axes fraction"), "offset points",
                      fontsize=style.TINY, color=style.ALARM)


def _colour(sweep: Sweep, row: SweepRow) -> style.Rgb:
    return style.stage_colour(list(dict.fromkeys(r.cluster for r in sweep.rows)).index(row.cluster))


def _batch(sweep: Sweep, row: SweepRow) -> int:
    return list(dict.fromkeys(r.batch for r in sweep.rows)).index(row.batch)
