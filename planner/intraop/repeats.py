"""Repeated layers are priced once, in the values of one of them: what another calls the same.

In: a program in layers. Out: values and operators of a class's representative -> those of a layer.
"""

from planner.layer_classes import layer_ops
from planner.layers import Layers
from planner.program_index import ProgramIndex


def renamed(index: ProgramIndex, layers: Layers, layer: int) -> tuple[dict[int, int], dict[int, int]]:
    """Values and operators of the representative of a layer's class -> those of the layer."""
    graph = index.program.micro
    original = layer_ops(index, *layers.distinct[layers.classes[layer]])
    copy = layer_ops(index, *layers.ranges[layer])
    values: dict[int, int] = {}
    for a, b in zip(original, copy, strict=True):
        before, after = graph.ops[a], graph.ops[b]
        for x, y in zip((*before.operands, *before.results), (*after.operands, *after.results), strict=True):
            if isinstance(x, int) and isinstance(y, int):
                values[x] = y
    return values, dict(zip(original, copy, strict=True))
