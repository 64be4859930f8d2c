"""A distinct layer of a plan as Unity's parallel computation graph: operators from top to bottom in order of execution,
parallel operators in colour to the left of what they bring and to the right of what they take away.

A communication is a row of boxes, one for each parallel operator that it is made of, over a line that says what it
costs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as MplPath

from planner.core.plan import PlanRecord
from planner.report import units
from planner.report.figures import style
from planner.report.operator_words import cost_text
from planner.report.operators import Block, Operator, Parallel, ParallelOperator, operators

COLOURS: Mapping[Parallel, str] = MappingProxyType({
    Parallel.PARTITION: "#009E73", Parallel.COMBINE: "#56B4E9", Parallel.REPLICATE: "#CC79A7",
    Parallel.REDUCE: "#E69F00", Parallel.HALO: "#F0E442", Parallel.PERMUTE: "#BBBBBB"})

MOST = 16
"""Operators in one picture; those that communicate come first, then those of most arithmetic."""

LINE, BOX, GAP = 0.56, 0.27, 0.3
"""Inches: height of a communication and of its boxes, and between operators."""

MIDDLE, GUTTER = 0.3, 0.07
"""Parts of the width: of an operator's box, and beside it, for lines."""

LANES = 6
"""Lines that pass operators by, side by side at most."""


@dataclass(frozen=True)
class Row:
    """An operator with its top and height in inches, and the rows it reads."""

    operator: Operator
    top: float
    height: float
    reads: tuple[int, ...]

    @property
    def centre(self) -> float:
        return self.top + self.height / 2

    @property
    def half(self) -> float:
        """Half the height of the operator's box."""
        return self.height / 2 - 0.07


def chosen(record: PlanRecord, layer: int | None = None) -> Block:
    """The layers alike to one; without it, those that communicate longest, or compute most where none does."""
    blocks = [block for stage in operators(record) for block in stage.blocks]
    if layer is not None:
        return next(block for block in blocks if layer in block.layers)
    return max(blocks, key=lambda b: (sum(m.of.time_s for o in b.operators for m in (*o.before, *o.after)),
                                      sum(o.flops for o in b.operators), -b.layers[0]))


def height(record: PlanRecord, layer: int | None = None) -> float:
    """Inches."""
    last = _rows(chosen(record, layer))[-1:]
    return sum(row.top + row.height for row in last) + 0.1


def draw(axes: Axes, record: PlanRecord, layer: int | None = None) -> None:
    """Draw the layers alike to one, or those that communicate longest."""
    block = chosen(record, layer)
    rows = _rows(block)
    width, high = style.inches(axes)
    style.blank(axes, width, high)
    alike = f"{len(block.layers)} alike, all counted; " if len(block.layers) > 1 else ""
    which = f"layer{'s' * (len(block.layers) > 1)} {units.ranges(block.layers)}"
    style.titled(axes, f"parallel operators of {which}, stage {block.stage}", f"{alike}pale: in the backward")
    left, right = width * (0.5 - MIDDLE / 2), width * (0.5 + MIDDLE / 2)
    for row in rows:
        _operator(axes, row, left, right)
        for side, moves in ((-1, row.operator.before), (1, row.operator.after)):
            for k, move in enumerate(moves):
                y = row.centre + (k - (len(moves) - 1) / 2) * LINE
                _move(axes, move, side, y, (left, right, width))
    _edges(axes, rows, left, right, width)


def _rows(block: Block) -> list[Row]:
    order = sorted(range(len(block.operators)), key=lambda n: (not _moves_of(block.operators[n]),
                                                               -block.operators[n].flops, n))
    kept = sorted(order[:MOST])
    at = {n: k for k, n in enumerate(kept)}
    rows: list[Row] = []
    top = 0.1
    for n in kept:
        operator = block.operators[n]
        tall = LINE * max(1, len(operator.before), len(operator.after))
        rows.append(Row(operator, top, tall, tuple(at[r] for r in operator.reads if r in at)))
        top += tall + GAP
    return rows


def _moves_of(operator: Operator) -> int:
    return len(operator.before) + len(operator.after)


def _operator(axes: Axes, row: Row, left: float, right: float) -> None:
    axes.add_patch(FancyBboxPatch((left, row.centre - row.half), right - left, 2 * row.half, facecolor="white",
                                  edgecolor=style.INK, boxstyle="round,pad=0,rounding_size=0.05", linewidth=0.9,
                                  zorder=2))
    operator = row.operator
    times = f"{operator.times} × " if operator.times > 1 else ""
    primitive, _, source = operator.name.partition(" ")
    label = style.fitting((f"{times}{primitive}\n{source}", f"{times}{primitive}\n{source.partition(' ')[0]}",
                           f"{times}{primitive}", primitive[:12]), right - left - 0.1, 0.42,
                          (style.SMALL, style.TINY))
    if label:
        axes.text((left + right) / 2, row.centre, label[0], ha="center", va="center", fontsize=label[1], zorder=3,
                  linespacing=1.1)


def _move(axes: Axes, move: ParallelOperator, side: int, y: float, across: tuple[float, float, float]) -> None:
    """Boxes beside an operator, left (-1) or right of it, around height `y`."""
    left, right, width = across
    near = left - GUTTER * width if side < 0 else right + GUTTER * width
    start, end = (0.0, near) if side < 0 else (near, width)
    backward = move.of.phase == "backward"
    each = (end - start) / len(move.kinds)
    for k, kind in enumerate(move.kinds):
        colour = to_rgb(COLOURS[kind])
        if backward:
            colour = style.mixed(colour, 1.0, 0.55)
        axes.add_patch(FancyBboxPatch((start + k * each + 0.02, y - 0.25), each - 0.04, BOX, facecolor=colour,
                                      edgecolor=style.INK, boxstyle="round,pad=0,rounding_size=0.04", linewidth=0.5,
                                      zorder=2))
        label = style.fitting((_name(kind, move), kind), each - 0.08, BOX, (style.SMALL, style.TINY))
        if label:
            axes.text(start + (k + 0.5) * each, y - 0.25 + BOX / 2, label[0], ha="center", va="center",
                      fontsize=label[1], color=style.ink_on(colour), zorder=3)
    over, phase = f"over {', '.join(move.axes)}", f"{move.of.phase} {move.of.kind}"
    note = style.fitting((f"{phase} {over}, {cost_text(move)}", f"{phase}, {cost_text(move)}",
                          f"{move.of.phase}, {cost_text(move)}", cost_text(move)), end - start, 0.2,
                         (style.SMALL, style.TINY))
    if note:
        axes.text((start + end) / 2, y + 0.14, note[0], ha="center", va="center", fontsize=note[1], zorder=3)
    tips = ((near, y - 0.11), (left, y - 0.11)) if side < 0 else ((right, y - 0.11), (near, y - 0.11))
    axes.add_patch(FancyArrowPatch(*tips, arrowstyle="-|>", mutation_scale=7, linewidth=0.8, color=style.FAINT,
                                   shrinkA=0, shrinkB=1, zorder=1))


def _name(kind: Parallel, move: ParallelOperator) -> str:
    which = {Parallel.COMBINE: move.of.cut, Parallel.PARTITION: move.of.cuts}.get(kind, ())
    return f"{kind} dim {', '.join(map(str, which))}" if which else kind


def _edges(axes: Axes, rows: Sequence[Row], left: float, right: float, width: float) -> None:
    """Who reads whose result: straight down to the next, in lanes beside the boxes past others."""
    lane = 0
    for k, row in enumerate(rows):
        for read in row.reads:
            source = rows[read]
            if read == k - 1:
                middle = (left + right) / 2
                _arrow(axes, [(middle, source.centre + source.half), (middle, row.centre - row.half)])
                continue
            x = left - width * GUTTER * (0.25 + 0.6 * (lane % LANES) / LANES)
            lane += 1
            _arrow(axes, [(left, source.centre + 0.14), (x, source.centre + 0.14), (x, row.centre + 0.08),
                          (left, row.centre + 0.08)])


def _arrow(axes: Axes, corners: Sequence[tuple[float, float]]) -> None:
    axes.add_patch(FancyArrowPatch(path=MplPath(list(corners)), arrowstyle="-|>", mutation_scale=7, linewidth=0.8,
                                   color=style.INK, zorder=1))
