"""The backward of a layer in two parts: what the layers before wait for, and what only makes gradients of parameters.

Zero-bubble schedules run the first part, the input gradient, as soon as a cotangent arrives, and fill waiting time with
the second, the weight gradient. An operator belongs to the first if a cotangent that leaves its layer depends on it,
and to the second if not; the second may read results of the first, never the other way round. Nothing leaves the first
layer of a model, so that all of its backward is weight gradient: nobody waits for it. A gradient that another layer
only casts, transposes or adds to others (weights that are cast once and read by many layers) is no cotangent that
leaves.

In: a differentiated graph, rewritten or not, and the forward operators of every layer. Out: operators of the second
part. Source: Qi et al., arXiv:2401.10241, section 2.
"""

from collections.abc import Collection, Sequence

from planner.core.graph import Graph, Phase, Role

LAID_OUT = frozenset({"transpose", "reshape", "convert_element_type", "squeeze", "copy"})
"""Operators that make another layout or dtype of their operand."""

_ADDED = frozenset({"add", "add_any", "first_part"})


def weight_part(graph: Graph, layers: Sequence[tuple[int, int]], needed: Collection[int] = ()) -> frozenset[int]:
    """The backward operators that only lead to gradients of parameters.

    Args:
      graph: a graph of which `Op.origin` tells the layer.
      layers: [first, last) origins of every layer, one after another.
      needed: values that have to be made by the first part in any case: those that go to other stages.
    """
    layer_of = {origin: k for k, ops in enumerate(layers) for origin in range(*ops)}
    late = [n for n, op in enumerate(graph.ops) if op.phase is Phase.BACKWARD]
    made = {v: n for n in late for v in graph.ops[n].results}
    finishing = _finishing(graph, late)
    layer = {n: layer_of.get(graph.ops[n].origin, -1) for n in late}
    first = {made[v] for v in needed if v in made}
    first |= {made[v] for n in late if n not in finishing for v in graph.ops[n].inputs
              if v in made and layer[made[v]] != layer[n]}
    for n in reversed(late):
        if n in first:
            first.update(made[v] for v in graph.ops[n].inputs if v in made)
    return frozenset(late) - first


def _finishing(graph: Graph, late: Sequence[int]) -> frozenset[int]:
    """Operators that do nothing but lay out and add up gradients: all that is made of their results are gradients."""
    grads = {o.operand for o in graph.outputs_of(Role.GRAD)}
    readers = graph.consumers
    found: set[int] = set()
    for n in reversed(late):
        op = graph.ops[n]
        if op.primitive in LAID_OUT | _ADDED and all(
                (v in grads or v in readers) and all(m in found for m in readers.get(v, ())) for v in op.results):
            found.add(n)
    return frozenset(found)
