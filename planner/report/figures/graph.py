"""The operator graph, coloured by stage, left to right in order of execution.

Small models show every operator. Larger ones show layers instead, and neighbouring equal layers of a stage as one node,
so that the picture stays readable for any number of operators. Columns are depths (of operators) or the order of
execution (of layers), wrapped into rows like text; nodes grow with their FLOPs.
"""

import itertools
import math
from dataclasses import dataclass

import networkx as nx
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as MplPath

from planner.core.plan import PlanRecord
from planner.report import units
from planner.report.figures import style

MOST_OPS = 60
"""With more operators than this, layers are drawn instead."""

CELL = (1.2, 0.85)
"""Smallest width and usual height of a node's cell in inches."""


@dataclass(frozen=True)
class Node:
    """What is drawn as one node: label texts (fullest first), stage, forward FLOPs."""

    labels: tuple[str, ...]
    stage: int
    flops: int


@dataclass(frozen=True)
class Layout:
    """Where nodes go: depth and slot in its column for each, columns in a row, rows, nodes in the fullest column."""

    depth: dict[int, int]
    slot: dict[int, tuple[int, int]]
    per_row: int
    rows: int
    tallest: int

    def place(self, n: int, cell: tuple[float, float]) -> tuple[float, float]:
        """Centre of a node for cells (a column of a row) of a size."""
        row, column = divmod(self.depth[n], self.per_row)
        k, of = self.slot[n]
        return (column + 0.5) * cell[0], (row + (k + 0.5) / of) * cell[1]


def draw(axes: Axes, record: PlanRecord) -> None:
    """Draw operators or layers into the axes."""
    graph, nodes = _graph(record)
    note = units.plural(len(record.ops), "operator")
    if len(record.ops) > MOST_OPS:
        note += f" in {units.plural(len(record.layers), 'layer')}; neighbouring equal layers are one node"
    style.titled(axes, "operator graph by stage", note)
    width, high = style.inches(axes)
    style.blank(axes, width, high)
    if not nodes:
        return
    layout = _layout(graph, width)
    cell = (width / layout.per_row, min(high / layout.rows, 1.4 * CELL[1] * layout.tallest))
    box = (0.74 * cell[0], min(0.72 * cell[1] / layout.tallest, 0.55))
    most = max(n.flops for n in nodes) or 1
    sizes = [(box[0], box[1] * (0.45 + 0.55 * math.sqrt(n.flops / most))) for n in nodes]
    places = [layout.place(n, cell) for n in range(len(nodes))]
    for a, b in sorted(graph.edges):
        _edge(axes, places[a], places[b], cell, box[0], layout.depth[b] - layout.depth[a])
    for node, place, size in zip(nodes, places, sizes, strict=True):
        _node(axes, node, place, size)


def height(record: PlanRecord, width: float) -> float:
    """Inches that the picture needs at a width."""
    layout = _layout(_graph(record)[0], width)
    return min(7.0, layout.rows * layout.tallest * CELL[1])


def _graph(record: PlanRecord) -> tuple[nx.DiGraph, list[Node]]:
    return operators(record) if len(record.ops) <= MOST_OPS else layers(record)


def operators(record: PlanRecord) -> tuple[nx.DiGraph, list[Node]]:
    """Every forward operator as a node."""
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(record.ops)))
    graph.add_edges_from((r, n) for n, op in enumerate(record.ops) for r in op.reads)
    for depth, generation in enumerate(nx.topological_generations(graph)):
        for n in generation:
            graph.nodes[n]["column"] = depth
    stage_of = _stage_of_layer(record)
    return graph, [Node((op.primitive, op.primitive[:6], ""), stage_of.get(op.layer, 0), op.flops) for op in record.ops]


def layers(record: PlanRecord) -> tuple[nx.DiGraph, list[Node]]:
    """Runs of neighbouring layers of one stage, name and size as nodes (a class also depends on what a layer reads)."""
    stage_of = _stage_of_layer(record)
    keys = [(stage_of.get(n, 0), info.name, info.flops) for n, info in enumerate(record.layers)]
    nodes: list[Node] = []
    node_of_layer: list[int] = []
    for (stage, *_), run in itertools.groupby(range(len(record.layers)), key=keys.__getitem__):
        which = list(run)
        flops = sum(record.layers[n].flops for n in which)
        name = record.layers[which[0]].name
        if len(which) > 1:
            name += f" × {len(which)}"
        nodes.append(Node((f"{name}\n{units.scaled(flops, 'FLOP')}\nstage {stage}", f"{name}\nstage {stage}", name,
                           units.ranges(which)), stage, flops))
        node_of_layer += [len(nodes) - 1] * len(which)
    graph = nx.DiGraph()
    graph.add_nodes_from((n, {"column": n}) for n in range(len(nodes)))
    for op in record.ops:
        for r in op.reads:
            a, b = node_of_layer[record.ops[r].layer], node_of_layer[op.layer]
            if a != b:
                graph.add_edge(a, b)
    return graph, nodes


def _stage_of_layer(record: PlanRecord) -> dict[int, int]:
    return {layer: s.index for s in record.stages for layer in range(*s.layers)}


def _layout(graph: nx.DiGraph, width: float) -> Layout:
    depth: dict[int, int] = dict(graph.nodes(data="column"))
    columns: dict[int, list[int]] = {}
    for n in sorted(depth):
        columns.setdefault(depth[n], []).append(n)
    slot: dict[int, tuple[int, int]] = {}
    for d in sorted(columns):
        for k, n in enumerate(_ordered(columns[d], graph, slot)):
            slot[n] = (k, len(columns[d]))
    rows = max(1, -(-len(columns) // max(1, int(width / CELL[0]))))
    return Layout(depth, slot, max(1, -(-len(columns) // rows)), rows, max(map(len, columns.values()), default=1))


def _ordered(members: list[int], graph: nx.DiGraph, slot: dict[int, tuple[int, int]]) -> list[int]:
    """Members of a column, each near the mean height of what it reads (one barycentre sweep)."""
    def mean(n: int) -> tuple[float, int]:
        heights = [(slot[p][0] + 0.5) / slot[p][1] for p in graph.predecessors(n)]
        return (sum(heights) / len(heights) if heights else 0.0, n)

    return sorted(members, key=mean)


def _edge(axes: Axes, a: tuple[float, float], b: tuple[float, float], cell: tuple[float, float], box: float,
          steps: int) -> None:
    (x0, y0), (x1, y1) = a, b
    gutter = (cell[0] - box) / 2
    ink = {"arrowstyle": "-|>", "mutation_scale": 7, "linewidth": 0.8, "color": style.FAINT, "shrinkA": 0, "shrinkB": 0,
           "zorder": 1}
    if steps == 1 and x1 > x0:
        axes.add_patch(FancyArrowPatch((x0 + box / 2, y0), (x1 - box / 2, y1), **ink))
    elif steps == 1:  # to the next row, through the gutters
        between = (y0 // cell[1] + 1) * cell[1]
        corners = [(x0 + box / 2, y0), (x0 + box / 2 + 0.6 * gutter, y0), (x0 + box / 2 + 0.6 * gutter, between),
                   (x1 - box / 2 - 0.6 * gutter, between), (x1 - box / 2 - 0.6 * gutter, y1), (x1 - box / 2, y1)]
        axes.add_patch(FancyArrowPatch(path=MplPath(corners), **ink))
    else:  # skips over nodes: an arc behind them
        level = abs(y1 - y0) < 1e-9  # an arc of height rad * distance / 2, which stays in the row
        bend = -min(0.3, 0.8 * cell[1] / max(abs(x1 - x0), 1e-9)) if level else 0.12
        ink |= {"linewidth": 0.5, "linestyle": (0, (4, 2)), "color": style.GREY}
        axes.add_patch(FancyArrowPatch((x0, y0), (x1 - box / 2 if x1 > x0 else x1, y1),
                                       connectionstyle=f"arc3,rad={bend}", **ink))


def _node(axes: Axes, node: Node, place: tuple[float, float], size: tuple[float, float]) -> None:
    (x, y), (width, high) = place, size
    colour = style.stage_colour(node.stage)
    axes.add_patch(FancyBboxPatch((x - width / 2, y - high / 2), width, high, facecolor=colour, edgecolor=style.INK,
                                  boxstyle="round,pad=0,rounding_size=0.04", linewidth=0.6, zorder=2))
    label = style.fitting(node.labels, width - 0.02, high)
    if label:
        axes.text(x, y, label[0], ha="center", va="center", fontsize=label[1], color=style.ink_on(colour), zorder=3,
                  linespacing=1.1)
