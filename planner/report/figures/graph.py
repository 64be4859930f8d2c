"""The operator graph, coloured by stage, left to right in order of execution.

Small models show every operator, a row a layer. Larger ones show layers instead, and neighbouring equal layers of a stage
as one node, so that the picture stays readable for any number of operators. Nodes grow with their FLOPs.
"""

import itertools
import math
from dataclasses import dataclass

import networkx as nx
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from planner.core.plan import PlanRecord
from planner.report import units
from planner.report.figures import style

MOST_OPS = 60
"""With more operators than this, layers are drawn instead."""


@dataclass(frozen=True)
class Node:
    """What is drawn as one node: label texts (fullest first), stage, forward FLOPs."""

    labels: tuple[str, ...]
    stage: int
    flops: int


def draw(axes: Axes, record: PlanRecord) -> None:
    """Draw operators or layers into the axes."""
    if len(record.ops) <= MOST_OPS:
        graph, nodes = operators(record)
        note = f"{units.plural(len(record.ops), 'operator')}"
    else:
        graph, nodes = layers(record)
        note = f"{units.plural(len(record.ops), 'operator')} in {units.plural(len(record.layers), 'layer')}; neighbouring equal layers are one node"
    style.titled(axes, "operator graph by stage", note)
    width, height = style.inches(axes)
    style.blank(axes, width, height)
    if not nodes:
        return
    places, cell_w, cell_h = _places(graph, len(nodes), width, height)
    _edges(axes, graph, places, cell_w, cell_h)
    most = max(n.flops for n in nodes) or 1
    for n, node in enumerate(nodes):
        _node(axes, node, places[n], cell_w, cell_h, node.flops / most)


def operators(record: PlanRecord) -> tuple[nx.DiGraph, list[Node]]:
    """Every forward operator as a node."""
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(record.ops)))
    graph.add_edges_from((r, n) for n, op in enumerate(record.ops) for r in op.reads)
    stage_of = _stage_of_layer(record)
    return graph, [Node((op.primitive, op.primitive[:6], ""), stage_of.get(op.layer, 0), op.flops) for op in record.ops]


def layers(record: PlanRecord) -> tuple[nx.DiGraph, list[Node]]:
    """Runs of neighbouring layers of one class and stage as nodes."""
    stage_of = _stage_of_layer(record)
    keys = [(stage_of.get(n, 0), info.layer_class) for n, info in enumerate(record.layers)]
    nodes: list[Node] = []
    node_of_layer: list[int] = []
    for (stage, _), run in itertools.groupby(range(len(record.layers)), key=keys.__getitem__):
        which = list(run)
        flops = sum(record.layers[n].flops for n in which)
        name = record.layers[which[0]].name
        if len(which) > 1:
            name += f" × {len(which)}"
        nodes.append(Node((f"{name}\n{units.scaled(flops, 'FLOP')}\nstage {stage}", f"{name}\nstage {stage}", name,
                           units.ranges(which)), stage, flops))
        node_of_layer += [len(nodes) - 1] * len(which)
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(nodes)))
    for op in record.ops:
        for r in op.reads:
            a, b = node_of_layer[record.ops[r].layer], node_of_layer[op.layer]
            if a != b:
                graph.add_edge(a, b)
    return graph, nodes


def _stage_of_layer(record: PlanRecord) -> dict[int, int]:
    return {layer: s.index for s in record.stages for layer in range(*s.layers)}


def _places(graph: nx.DiGraph, count: int, width: float, height: float) -> \
        tuple[dict[int, tuple[float, float]], float, float]:
    """Centre of each node and the size of its cell: columns by depth, wrapped into rows of columns like text."""
    depth = {n: d for d, generation in enumerate(nx.topological_generations(graph)) for n in generation}
    columns: dict[int, list[int]] = {}
    for n in range(count):
        columns.setdefault(depth[n], []).append(n)
    tallest = max(map(len, columns.values()))
    rows = max(1, round(math.sqrt(len(columns) * height / (width * 0.62 * tallest))))
    per_row = -(-len(columns) // rows)
    rows = -(-len(columns) // per_row)
    cell_w, cell_h = width / per_row, height / rows
    places: dict[int, tuple[float, float]] = {}
    for d, members in columns.items():
        row, column = divmod(d, per_row)
        for k, n in enumerate(_ordered(members, graph, places)):
            places[n] = ((column + 0.5) * cell_w, (row + (k + 0.5) / len(members)) * cell_h)
    return places, cell_w, cell_h / tallest


def _ordered(members: list[int], graph: nx.DiGraph, places: dict[int, tuple[float, float]]) -> list[int]:
    """Members of a column, each near the mean height of what it reads (one barycentre sweep)."""
    def mean(n: int) -> tuple[float, int]:
        heights = [places[p][1] for p in graph.predecessors(n)]
        return (sum(heights) / len(heights) if heights else 0.0, n)

    return sorted(members, key=mean)


def _edges(axes: Axes, graph: nx.DiGraph, places: dict[int, tuple[float, float]], cell_w: float, cell_h: float) -> None:
    for a, b in sorted(graph.edges):
        (x0, y0), (x1, y1) = places[a], places[b]
        far = abs(y1 - y0) < 1e-9 and x1 - x0 > 1.5 * cell_w
        axes.add_patch(FancyArrowPatch((x0, y0), (x1, y1), arrowstyle="-|>", mutation_scale=6, linewidth=0.7,
                                       color=style.FAINT, shrinkA=0, shrinkB=0.36 * 72 * min(cell_w, 0.9),
                                       connectionstyle="arc3,rad=-0.35" if far else "arc3,rad=0", zorder=1))


def _node(axes: Axes, node: Node, place: tuple[float, float], cell_w: float, cell_h: float, part: float) -> None:
    x, y = place
    colour = style.stage_colour(node.stage)
    width = 0.74 * cell_w
    height = min(0.72 * cell_h, 0.55) * (0.45 + 0.55 * math.sqrt(part))
    axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, facecolor=colour, edgecolor=style.INK,
                                  boxstyle="round,pad=0,rounding_size=0.04", linewidth=0.6, zorder=2))
    label = style.fitting(node.labels, width - 0.02, height)
    if label:
        axes.text(x, y, label[0], ha="center", va="center", fontsize=label[1], color=style.ink_on(colour), zorder=3,
                  linespacing=1.1)
