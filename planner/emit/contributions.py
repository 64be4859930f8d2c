"""What makes up the gradient of a parameter, and the way there.

In: a differentiated graph. Out: values of it.
"""

from planner.core.graph import Graph, Input, Role
from planner.core.plan import ParamPlan

_LAID_OUT = frozenset({"transpose", "reshape", "convert_element_type", "squeeze", "copy"})
"""Operators that make another layout or dtype of their operand."""


def contributions(graph: Graph, param: ParamPlan | Input) -> tuple[int, ...]:
    """The values whose sum is the gradient of a parameter."""
    return graph.contributions.get((param.path, param.row), ())


def ways_to_gradients(graph: Graph) -> set[int]:
    """The values of `contributions` of all parameters, and what they are casts, transposes and the like of."""
    maker, found = graph.producers, set[int]()
    for output in graph.outputs_of(Role.GRAD):
        value = output.operand
        while isinstance(value, int) and value not in found:
            found.add(value)
            op = graph.ops[maker[value]] if value in maker else None
            value = op.inputs[0] if op is not None and op.primitive in _LAID_OUT and len(op.inputs) == 1 else None
    return found
