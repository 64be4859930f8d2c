"""A compiled function: what it holds beside its arguments while it runs.

In: `Nodes` and what the function gives back. Out: a `Function`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from planner.core.graph import Phase
from planner.costs.liveness import packed, places
from planner.costs.memory import Live
from planner.footprint.compilers import compiler_of
from planner.footprint.emitted import Emitted, Function, Holds
from planner.footprint.kernels import Fused, fuse
from planner.footprint.nodes import Nodes


@dataclass(frozen=True)
class Ends:
    """Tensors that a function gives back: `outs` in places of their own, `donated` in an argument's; the gradients
    among all its tensors; and, of a loop's body, what is `the_same` in every round."""

    outs: tuple[int, ...] = ()
    donated: tuple[int, ...] = ()
    grads: tuple[int, ...] = ()
    the_same: tuple[int, ...] = ()


def function(emitted: Emitted, nodes: Nodes, ends: Ends, first: Function | None = None) -> Function:
    """Fuse and schedule nodes, and lay out what they hold. `first`: what the first kernel is, if that is a function of
    its own (a loop's body). What differs in the numbers of operators alone, as tasks of equal stages do, is looked at
    once."""
    if first is not None:
        return _function(emitted, nodes, ends, first)
    numbers: dict[int, int] = {}
    shape = tuple((n.kind, n.operands, n.results, numbers.setdefault(n.op, len(numbers)), n.product, n.over, n.moves)
                  for n in nodes.nodes)
    sizes = tuple((t.bytes, t.item, t.node) for t in nodes.tensors)
    ops = tuple(numbers)
    forward = tuple(op >= 0 and emitted.given.graph.ops[op].phase is Phase.FORWARD for op in ops)
    key = (shape, sizes, tuple(map(tuple, nodes.joined.values())), ends, ops.index(-1) if -1 in numbers else None,
           forward)
    if key not in emitted.alike:
        made = _function(emitted, nodes, ends)
        emitted.alike[key] = replace(made, ops=tuple(numbers[op] for op in made.ops))
    found = emitted.alike[key]
    return replace(found, ops=tuple(ops[number] for number in found.ops))


def _function(emitted: Emitted, nodes: Nodes, ends: Ends, first: Function | None = None) -> Function:
    compiler = compiler_of(emitted.record.cluster)
    fused = fuse(nodes, (*ends.outs, *ends.donated), compiler)
    order = compiler.order(fused.kernels)
    kept = {fused.buffer[t] for t in (*ends.outs, *ends.donated)}
    grads = {fused.buffer[t] for t in ends.grads if t in fused.buffer}
    shift = len(first.ops) - 1 if first else 0
    held = list(first.held) if first else []
    kinds = list(first.kinds) if first else []
    moved_out = out_of_loop(fused, ends.the_same) if compiler.hoists else frozenset[int]()
    joined = [[fused.buffer[t] for t in parts if t in fused.buffer] for parts in nodes.joined.values()]
    for place in places(fused.kernels, order, fused.sizes, kept | moved_out, [parts for parts in joined if parts]):
        if kept.isdisjoint(place.buffers):
            start, end = place.live.start, place.live.end
            if not moved_out.isdisjoint(place.buffers):
                start, end = 0, len(order)
            held.append(Live(start + shift if start else 0, end + shift, place.live.bytes))
            ops = (fused.ops[order[start]], fused.ops[order[min(end, len(order)) - 1]])
            kinds.append(Holds.GRADS if grads.intersection(place.buffers) else emitted.kind(*ops))
    ops = tuple(fused.ops[n] for n in order)
    out = sum(nodes.tensors[t].bytes for t in ends.outs)
    return Function(tuple(held), tuple(kinds), (*first.ops, *ops[1:]) if first else ops, out, packed(held))


def out_of_loop(fused: Fused, the_same: Sequence[int]) -> frozenset[int]:
    """Buffers of a loop's body that are made of `the_same` alone by nothing heavy: casts and copies of parameters are
    made before the loop and held to its end (`WhileLoopInvariantCodeMotion`)."""
    known = set(the_same)
    for kernel, light in zip(fused.kernels, fused.light, strict=True):
        if light and kernel.reads and known.issuperset(kernel.reads):
            known.update(kernel.writes)
    return frozenset(known.difference(the_same))
