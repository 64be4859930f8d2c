"""The picture of a sweep as a PNG, SVG or PDF file.

In: a `Sweep`. Out: a file, the same bytes for equal sweeps, that appears whole or not at all.
"""

import os
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from planner.core.sweeps import Sweep
from planner.errors import PlannerError
from planner.report.figures import style, sweep
from planner.report.formats import check_format
from planner.report.plots import write

COLUMNS = 5
"""Entries of the legend side by side."""


def plot_sweep(found: Sweep, path: str | os.PathLike[str]) -> None:
    """Draw hours and dollars, hours, utilisation and memory over devices on one sheet.

    Raises:
      PlannerError: no row has a plan, the ending is no known format, or the file cannot be written.
    """
    place = Path(path)
    check_format(place)
    if all(r.step_time_s is None for r in found.rows):
        raise PlannerError("there is nothing to draw: no point of the sweep has a plan", "see the reasons in the table")
    with matplotlib.rc_context(dict(style.RC)):
        figure = Figure(figsize=(11, 8.2))
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, 2)
        for part, draw in zip(axes.flat, (sweep.cost, sweep.hours, sweep.utilisation, sweep.memory), strict=True):
            draw(part, found)
            part.tick_params(labelsize=style.SMALL, length=2)
        figure.suptitle(f"{found.model}: {found.run}", x=0.065, ha="left", fontsize=style.TITLE + 2, fontweight="bold")
        handles = sweep.legend(found)
        rows = -(-len(handles) // COLUMNS)
        figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.055, 0.0), ncols=min(COLUMNS, len(handles)),
                      fontsize=style.SMALL, frameon=False)
        figure.subplots_adjust(left=0.075, right=0.985, top=0.905, bottom=0.085 + 0.028 * rows, hspace=0.34,
                               wspace=0.2)
        write(figure, place)
