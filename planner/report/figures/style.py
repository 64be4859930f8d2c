"""How all pictures look: colours that colour-blind people tell apart, text sizes, what fits where.

Colours are those of Okabe and Ito, "Color Universal Design" (2008). With more stages than colours the palette repeats
in a lighter and then a darker shade, so that neighbours always differ; the number stands beside the colour everywhere.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

Rgb = tuple[float, float, float]

PALETTE = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#0072B2", "#D55E00")
GREY = "#BBBBBB"
INK = "#222222"
FAINT = "#888888"
ALARM = "#B00020"

TITLE, LABEL, SMALL, TINY = 11.0, 9.0, 8.0, 6.5
"""Text sizes in points; nothing is smaller than `TINY`."""

RC: Mapping[Any, Any] = MappingProxyType({
    "font.family": "DejaVu Sans", "font.size": LABEL, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": FAINT, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "svg.hashsalt": "planner", "svg.fonttype": "path", "hatch.linewidth": 0.6, "figure.facecolor": "white",
})
"""What every picture is drawn under; the salt makes equal pictures equal files."""

MEMORY_COLOURS = ("#0072B2", "#56B4E9", "#E69F00", "#009E73", "#CC79A7")
"""One a memory kind, in the order of `breakdown.MEMORY_KINDS`."""


def stage_colour(index: int) -> Rgb:
    """The colour of a stage."""
    turn, place = divmod(index, len(PALETTE))
    base = to_rgb(PALETTE[place])
    towards, amount = ((1.0, 0.0), (1.0, 0.45), (0.0, 0.35))[turn % 3]
    return mixed(base, towards, amount)


def mixed(colour: Rgb, towards: float, amount: float) -> Rgb:
    """A colour mixed with white (1.0) or black (0.0)."""
    r, g, b = ((1 - amount) * part + amount * towards for part in colour)
    return (r, g, b)


def ink_on(colour: Rgb) -> str:
    """Black or white, whichever is read better on a colour (relative luminance, WCAG 2)."""
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if (luminance + 0.05) ** 2 > 0.05 * 1.05 else "white"


def inches(axes: Axes) -> tuple[float, float]:
    """Width and height of the axes in inches (their position is fixed before anything is drawn in them)."""
    box = axes.get_position()
    width, height = axes.figure.get_size_inches()  # type: ignore[union-attr]
    return box.width * width, box.height * height


def text_inches(text: str, size: float) -> tuple[float, float]:
    """About how much room a text takes; 0.62 em a character is the upper range of DejaVu Sans in mixed text."""
    lines = text.split("\n")
    return 0.62 * size * max(map(len, lines)) / 72, 1.25 * size * len(lines) / 72


def fitting(texts: tuple[str, ...], width: float, height: float, sizes: tuple[float, ...] = (LABEL, SMALL, TINY)) -> \
        tuple[str, float] | None:
    """The first of the texts (fullest first) that fits into a box of inches at one of the sizes, or None."""
    for text in texts:
        for size in sizes:
            wide, high = text_inches(text, size)
            if wide <= width and high <= height:
                return text, size
    return None


def titled(axes: Axes, title: str, note: str = "") -> None:
    """A bold title at the left, with a note in plain text after it."""
    axes.set_title(title, loc="left", fontsize=TITLE, fontweight="bold")
    if note:
        axes.set_title(note, loc="right", fontsize=SMALL, color=FAINT)


def blank(axes: Axes, width: float, height: float) -> None:
    """Coordinates from (0, 0) at the top left to (width, height), without axes."""
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.axis("off")
