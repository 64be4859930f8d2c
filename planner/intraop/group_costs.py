"""Work of one operator, whole: FLOPs, the dtype that sets its rate, kernel launches. `group_price.py` divides it."""

from dataclasses import dataclass
from math import prod

from planner.core.graph import Graph
from planner.rules import flops_of, is_elementwise

LINEAR = frozenset({"reshape", "transpose", "squeeze", "expand_dims", "convert_element_type", "copy"})
"""Layout operators through which a pending sum passes unchanged."""

LAYOUT = LINEAR | {"broadcast_in_dim", "iota", "slice", "stop_gradient", "optimization_barrier", "name"}

TRANSCENDENTAL = frozenset({
    "exp", "exp2", "expm1", "log", "log1p", "log2", "tanh", "logistic", "erf", "erfc", "erf_inv", "sin", "cos", "tan",
    "pow", "atan2", "cbrt", "digamma", "lgamma",
})


@dataclass(frozen=True, slots=True)
class Work:
    """What an operator costs on one device holding all of it."""

    flops: int
    dtype: str
    launches: int
    transcendentals: int = 0  # elements that go through exp, log, tanh, ...


def op_work(graph: Graph, n: int) -> Work:
    """The work of operator `n`. A loop launches its body's operators once per trip."""
    op = graph.ops[n]
    floats = [graph.values[v].dtype for v in op.inputs if "float" in graph.values[v].dtype]
    dtype = floats[0] if floats else "default"
    if op.primitive in LAYOUT:
        return Work(0, dtype, 0)
    launches = 1
    if op.bodies:
        trips = int(op.params.get("length", 1)) if op.primitive == "scan" else 1
        launches = trips * sum(not is_elementwise(b.primitive) and b.primitive not in LAYOUT
                               for body in op.bodies for b in body.ops)
    flops = flops_of(graph, op)
    if not flops and not is_elementwise(op.primitive):
        flops = sum(prod(graph.values[r].shape) for r in op.results)
    through = sum(prod(graph.values[r].shape) for r in op.results) if op.primitive in TRANSCENDENTAL else 0
    return Work(flops, dtype, max(launches, 1), through)
