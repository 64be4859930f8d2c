"""Stages on the device grid: a row for each node, a column for each of its devices, coloured by stage. Stages that
share devices are one block."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from planner.core.hardware import Cluster
from planner.core.plan import PlanRecord, StagePlan
from planner.report import units
from planner.report.figures import style


@dataclass(frozen=True)
class Block:
    """A rectangle of devices of one stage: rows [top, bottom), columns [left, right)."""

    top: int
    bottom: int
    left: int
    right: int


def draw(axes: Axes, record: PlanRecord) -> None:
    """Draw the grid into the axes."""
    nodes, per_node = _grid(record)
    style.titled(axes, "stages on the devices", f"{record.cluster.name}, {units.plural(record.device_count, 'device')}")
    left, cell_w, cell_h = _cells(axes, nodes, per_node)
    style.blank(axes, left + per_node * cell_w, nodes * cell_h)
    for node in range(nodes):
        if cell_h >= 0.12 or node % 8 == 0:
            axes.text(left - 0.06, (node + 0.5) * cell_h, f"node {node}", ha="right", va="center", fontsize=style.SMALL)
    for rank in range(record.layout.ranks):
        stages = [record.stages[s] for s in record.layout.stages_of(rank)]
        colour = style.stage_colour(stages[0].index)
        found = blocks(_places(record.cluster, stages[0].devices, per_node), per_node)
        for block in found:
            for row in range(block.top, block.bottom):
                for column in range(block.left, block.right):
                    corner = (left + column * cell_w, row * cell_h)
                    axes.add_patch(Rectangle(corner, cell_w, cell_h, facecolor=colour, edgecolor="white",
                                             linewidth=0.8 if cell_h > 0.15 else 0.2))
            width, height = (block.right - block.left) * cell_w, (block.bottom - block.top) * cell_h
            axes.add_patch(Rectangle((left + block.left * cell_w, block.top * cell_h), width, height, fill=False,
                                     edgecolor=style.INK, linewidth=1.0))
            label = style.fitting(_labels(stages), width - 0.06, height - 0.04)
            if label:
                axes.text(left + block.left * cell_w + width / 2, block.top * cell_h + height / 2, label[0],
                          ha="center", va="center", fontsize=label[1], color=style.ink_on(colour), linespacing=1.1,
                          bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.5})


def blocks(devices: tuple[int, ...], per_node: int) -> list[Block]:
    """Devices as few rectangles of the grid: runs within a node, equal runs of neighbouring nodes joined."""
    runs: list[Block] = []
    for d in sorted(devices):
        node, column = divmod(d, per_node)
        if runs and runs[-1].top == node and runs[-1].right == column:
            runs[-1] = Block(node, node + 1, runs[-1].left, column + 1)
        else:
            runs.append(Block(node, node + 1, column, column + 1))
    joined: list[Block] = []
    for run in runs:
        last = joined[-1] if joined else None
        if last and (last.left, last.right, last.bottom) == (run.left, run.right, run.top):
            joined[-1] = Block(last.top, run.bottom, run.left, run.right)
        else:
            joined.append(run)
    return joined


def _grid(record: PlanRecord) -> tuple[int, int]:
    return record.cluster.nodes, max(kind.devices_per_node for kind in record.cluster.kinds)


def _places(on: Cluster, devices: Sequence[int], per_node: int) -> tuple[int, ...]:
    """Where devices are in the grid, whose rows are nodes; nodes of few devices leave some of their row empty."""
    parts = [on.part_of(d) for d in devices]
    within = [(d - on.first_of(p)) % on.kinds[p].devices_per_node for d, p in zip(devices, parts, strict=True)]
    return tuple(on.node_of(d) * per_node + at for d, at in zip(devices, within, strict=True))


def _cells(axes: Axes, nodes: int, per_node: int) -> tuple[float, float, float]:
    """(room for node names, width, height of a cell) in inches, which are the units of the axes."""
    width, height = style.inches(axes)
    left = 0.7
    return left, (width - left) / per_node, height / nodes


def _labels(stages: Sequence[StagePlan]) -> tuple[str, ...]:
    if len(stages) > 1:
        numbers = units.ranges(s.index for s in stages)
        layers = units.ranges(n for s in stages for n in range(*s.layers))
        return f"stages {numbers}\nlayers {layers}", f"{numbers}: {layers}", numbers
    stage = stages[0]
    layers = units.ranges(range(*stage.layers))
    mesh = ", ".join(f"{name}={size}" for name, size in zip(stage.mesh_axes, stage.mesh_shape, strict=True))
    short = f"stage {stage.index}\nlayers {layers}" if "–" in layers else f"stage {stage.index}\nlayer {layers}"
    return (*((f"{short}\n{mesh}",) if mesh else ()), short, f"{stage.index}: {layers}", str(stage.index))
