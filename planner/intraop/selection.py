"""Which values of a layer are kept for its backward, where neither all nor none are: a minimum cut of its forward.

What a backward needs is either kept, which takes memory, or made again, which takes time and needs its operands in
turn. At a price per byte the cheapest set of kept values is a minimum cut (the closure problem of Picard, 1976; as in
AOTAutograd's partitioner): with n(v) "v is needed" and r(o) "operator o runs again",

    minimise  Σ price · bytes(v) · n(v) (1 - r(maker of v)) + Σ seconds(o) · r(o),  r(o) ⇒ n(operands of o).

The price is the one at which keeping everything and keeping nothing cost the same: of what lies between the two, the
set that gains most over both (Korthikanti et al., arXiv:2205.05198, section 5, reach it by hand for a transformer). It
is chosen once per distinct layer, on whole tensors; every sharding then prices it exactly (`price.py`). What operators
take is a roofline, in which elementwise operators are arithmetic alone: fused, they pass over memory with what reads
them.

In: a `ProgramIndex`, forward operators [first, last), a `Device`. Out: a `Selection`; None where there is none between
everything and nothing.
"""

from collections.abc import Hashable, Sequence, Set
from math import prod

from planner.core.graph import Graph, Phase, Role
from planner.core.hardware import Device
from planner.core.min_cut import source_side
from planner.core.recomputation import run_again
from planner.costs.memory import value_bytes
from planner.intraop.choices import Selection
from planner.intraop.group_costs import LAYOUT, op_work
from planner.intraop.structure import ANCHORS
from planner.layer_classes import layer_ops
from planner.program_index import ProgramIndex, crossing
from planner.rules import is_elementwise

UNITS = 1e18
"""Costs are cut as whole attoseconds, so that equal programs are cut alike."""


WORTH = 1 / 64
"""A layer that saves less than this part of what it hands on has nothing to select. [chosen: lookups, whose masks are
all they save]"""


def selection(index: ProgramIndex, first: int, last: int, device: Device) -> Selection | None:
    """The values to keep of a layer, and the operators to run again; see the module."""
    graph, ops = index.program.micro, layer_ops(index, first, last)
    free = _free(graph, ops)
    forward = [n for n in ops if graph.ops[n].phase is Phase.FORWARD and not free.issuperset(graph.ops[n].results)]
    made = {v for n in forward for v in graph.ops[n].results}
    read = {v for n in ops if graph.ops[n].phase is Phase.BACKWARD for v in graph.ops[n].inputs}
    wanted = read & made
    handed_on = set(crossing(index, last))
    held = {v: 0 if v in handed_on else value_bytes(graph.values[v]) for v in made}
    seconds = {n: seconds_again(graph, n, device) for n in forward}
    most_s = sum(seconds[n] for n in run_again(graph, ops, free))
    most_bytes = sum(held[v] for v in wanted)
    if not most_s or most_bytes < WORTH * sum(value_bytes(graph.values[v]) for v in handed_on):
        return None
    cut = cheapest_again(graph, seconds, {v: most_s / most_bytes * held[v] for v in made}, wanted)
    there = made.difference(*(graph.ops[n].results for n in cut)) | free
    again = run_again(graph, ops, there)
    kept = read.union(*(graph.ops[n].inputs for n in again)) & there
    if not again or not kept - handed_on - free:
        return None
    return Selection(frozenset(kept), frozenset(again))


def seconds_again(graph: Graph, n: int, device: Device) -> float:
    """About what a forward operator takes on one device holding all of it, run again among others."""
    op, work = graph.ops[n], op_work(graph, n)
    if op.primitive in LAYOUT:
        return 0.0
    rate = device.flops_per_s(work.dtype if op.primitive in ANCHORS else "default")
    arithmetic = work.flops / rate
    if device.transcendentals_per_s is not None:
        arithmetic += work.transcendentals / device.transcendentals_per_s
    if is_elementwise(op.primitive):
        return arithmetic
    touched = {*op.inputs, *op.results}
    return max(arithmetic, sum(value_bytes(graph.values[v]) for v in touched) / device.memory_bandwidth_bytes_per_s)


def _free(graph: Graph, ops: Sequence[int]) -> frozenset[int]:
    """Casts and reshapes of a parameter alone: they are the parameter's, and no microbatch's own."""
    params = {i.value for i in graph.inputs_of(Role.PARAM)}
    found: set[int] = set()
    for n in ops:
        op = graph.ops[n]
        if op.phase is Phase.FORWARD and len(op.inputs) == len(op.operands) == len(op.results) == 1 and \
                op.inputs[0] in params | found and \
                prod(graph.values[op.results[0]].shape) == prod(graph.values[op.inputs[0]].shape):
            found.update(op.results)
    return frozenset(found)


def cheapest_again(graph: Graph, seconds: dict[int, float], priced: dict[int, float], wanted: Set[int]) -> set[int]:
    """The operators that run again in the cheapest set, given each value's price of being kept."""
    edges: list[tuple[Hashable, Hashable, int | None]] = []
    for n, cost in seconds.items():
        edges.append((("again", n), "done", round(cost * UNITS)))
        for v in graph.ops[n].results:
            edges.append((("value", v), ("again", n), round(priced[v] * UNITS)))
            if v in wanted:
                edges.append(("need", ("value", v), None))
        edges += [(("again", n), ("value", v), None) for v in graph.ops[n].inputs if v in priced]
    chosen = source_side(edges, "need", "done")
    return {n for n in seconds if ("again", n) in chosen}
