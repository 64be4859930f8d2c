"""Matrix FLOPs that a plan expects of each device: the program's products and convolutions, each divided by the shards
that the plan's specs cut it into.

In: the plan and its program. Out: FLOPs of one device and step, per stage. Repetitions for recomputation are counted.
"""

from math import prod

from planner.core.graph import Graph, Op
from planner.core.plan import PlanRecord
from planner.core.spec import axes_of
from planner.emit.inferred import infer
from planner.emit.rewritten import before_deferral
from planner.rules import flops_of
from planner.runtime.compile import Built

_PRODUCTS = frozenset({"dot_general", "ragged_dot_general", "conv_general_dilated"})


def expected_matrix_flops(record: PlanRecord, built: Built) -> tuple[int, ...]:
    """FLOPs of one device of each stage in a step."""
    given = before_deferral(record, built.program)
    found: list[int] = []
    for stage, inferred in zip(record.stages, infer(given), strict=True):
        mesh, total = stage.mesh_shape, 0
        for n, op in enumerate(given.graph.ops):
            whole = _matrix_flops(given.graph, op) if given.stage_of[n] == stage.index else 0
            if whole:
                axes = {a for v in op.results for a in axes_of(inferred.natural.get(v, ()))}
                axes |= {a for _, summed in inferred.reduced.get(n, ()) for a in summed}
                total += whole // prod(mesh[a] for a in axes)
        found.append(total * record.microbatches)
    return tuple(found)


def _matrix_flops(graph: Graph, op: Op) -> int:
    """Of an operator, and of what it repeats."""
    if op.primitive in _PRODUCTS:
        return flops_of(graph, op)
    times = op.params.get("length", 1) if op.primitive == "scan" else 1
    return times * sum(_matrix_flops(body, inner) for body in op.bodies for inner in body.ops)
