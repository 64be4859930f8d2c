"""Parameters that are stored sharded and used gathered: gathered by every layer, in the forward and again in the
backward, as the plan counts on.

Left to itself the compiler takes the gather in the backward for a repetition of the one in the forward, and all of them
for something that the loop over microbatches need not repeat: every gathered parameter would then be held for the whole
step (to GSPMD a gather is but a change of sharding, a function like any other). So where a layer begins, in each phase,
the parameters that it gathers go behind a barrier, together with the tensors that arrive: their gathers wait for those
tensors, and are not the same as any other. Within a layer the compiler may gather ahead. A layer that is run again in
the backward gathers once for both (`recompute.py` holds its parameters back).

On CPU, where this was seen in compiled programs (jax 0.10.2), the barriers hold until the collectives are settled, so
the counts are the plan's; the scheduler comes after their removal and may gather early, which holds more memory.

In: `Annotated`. Out: `Annotated`. Source: ZeRO stage 3 (arXiv:1910.02054) and FSDP (arXiv:2304.11277) gather a layer's
parameters before its forward and again before its backward.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from planner.core.graph import Graph, Phase, Role
from planner.core.plan import PlanRecord
from planner.core.spec import replicated, shard_count
from planner.emit.annotated import Annotated
from planner.emit.contributions import ways_to_gradients
from planner.emit.edit import Edit


@dataclass(frozen=True)
class _Held:
    """Values that go behind a barrier before operator `before`, and the operators that read them from there."""

    before: int
    values: tuple[int, ...]
    readers: tuple[int, ...]


@dataclass(frozen=True)
class _Weights:
    """The parameters of a graph.

    Attributes:
      maker: value -> operator that makes it.
      values: the parameters, and what is made of parameters alone (casts).
      held: the same, where recomputation already holds them back.
      gathered: (operator, weight) for every use of a weight in fewer shards than it is stored in.
      gradients: of parameters, for which no layer waits: a barrier would end what is summed once per batch.
    """

    maker: Mapping[int, int]
    values: Set[int]
    held: Set[int]
    gathered: Set[tuple[int, int]]
    gradients: Set[int]


def with_gathers_per_layer(record: PlanRecord, given: Annotated) -> Annotated:
    """The same computation, with the gathers of parameters held back to the layer that needs them."""
    weights, layers = _weights(record, given), _layers(record, given.graph)
    found = {key: held for key, ops in layers.items() if (held := _held(given, ops, weights)) is not None}
    if not found:
        return given
    barriers = {held.before: (held, _shared(given, held, layers.get((layer, Phase.BACKWARD), ()), weights)
                              if phase is Phase.FORWARD and len(record.stages) == 1 else {})
                for (layer, phase), held in found.items()}
    edit, names = Edit(given), dict[int, Mapping[int, int]]()
    for n, op in enumerate(given.graph.ops):
        if n in barriers:
            held, shared = barriers[n]
            behind = edit.barrier(held.values, given.stage_of[n], op.phase, op.origin)
            names |= {m: {**names.get(m, {}), **behind} for m in held.readers}
            names |= {m: {v: behind[v] for v in values} for m, values in shared.items()}
        edit.keep(n, names.get(n, {}))
    return edit.finish()


def _layers(record: PlanRecord, graph: Graph) -> dict[tuple[int, Phase], list[int]]:
    """The operators of every layer and phase, in order."""
    layer_of = {origin: k for k, layer in enumerate(record.layers) for origin in range(*layer.ops)}
    found: dict[tuple[int, Phase], list[int]] = {}
    for n, op in enumerate(graph.ops):
        if op.origin in layer_of:
            found.setdefault((layer_of[op.origin], op.phase), []).append(n)
    return found


def _shared(given: Annotated, held: _Held, backward: Sequence[int], weights: _Weights) -> dict[int, set[int]]:
    """Operators of the backward that reshard tensors as the forward does behind its barrier: what they read from there,
    so that both have one copy. Parts of a pipeline have none to share."""
    ops, readers, late = given.graph.ops, frozenset(held.readers), frozenset(backward)
    ahead = {(ops[n].operands[at], spec) for (n, at), spec in given.uses.items() if n in readers}
    tensors = {v for v in held.values if v not in weights.values and v not in weights.held}
    found: dict[int, set[int]] = {}
    for (n, at), spec in given.uses.items():
        value = ops[n].operands[at]
        if isinstance(value, int) and value in tensors and n in late and (value, spec) in ahead:
            found.setdefault(n, set()).add(value)
    return found


def _weights(record: PlanRecord, given: Annotated) -> _Weights:
    graph = given.graph
    values, held = {i.value for i in graph.inputs_of(Role.PARAM)}, set[int]()
    for op in graph.ops:
        if op.primitive == "optimization_barrier":
            held.update(r for o, r in zip(op.operands, op.results, strict=True) if o in values)
        elif op.inputs:
            for known in (values, held):
                if known.issuperset(op.inputs):
                    known.update(op.results)
    gathered: set[tuple[int, int]] = set()
    for (n, position), spec in given.uses.items():
        value, stage = graph.ops[n].operands[position], given.stage_of[n]
        if isinstance(value, int) and value in values:
            mesh = record.stages[stage].mesh_shape
            stored = given.specs[stage].get(value, replicated(len(spec)))
            if shard_count(spec, mesh) < shard_count(stored, mesh):
                gathered.add((n, value))
    return _Weights(graph.producers, values, held, gathered, ways_to_gradients(graph))


def _held(given: Annotated, ops: Sequence[int], weights: _Weights) -> _Held | None:
    """The barrier of one layer in one phase; None if it gathers nothing."""
    graph = given.graph
    readers = [n for n in ops for v in graph.ops[n].inputs if (n, v) in weights.gathered]
    if not readers:
        return None
    before = _first_of_alike(given, ops, readers[0])
    late = tuple(n for n in ops if n >= before)
    sources = {s for n in late for v in graph.ops[n].inputs if (n, v) in weights.gathered
               for s in _available(graph, v, weights, before)}
    arriving = {v for n in late for v in graph.ops[n].inputs if _arrives(graph, v, weights, before)}
    return _Held(before, (*sorted(sources), *sorted(arriving)), late)


def _first_of_alike(given: Annotated, ops: Sequence[int], reader: int) -> int:
    """The first operator that reshards a tensor as one from `reader` on does: a barrier between the two would have it
    resharded twice."""
    fetched = {n: {(v, given.uses[n, at]) for at, v in enumerate(given.graph.ops[n].operands) if (n, at) in given.uses}
               for n in ops}
    later = {f for n in ops if n >= reader for f in fetched[n]}
    return min((n for n in ops if n < reader and fetched[n] & later), default=reader)


def _available(graph: Graph, value: int, weights: _Weights, before: int) -> set[int]:
    """A weight, or what it is made of, as far as it is there before an operator."""
    made = weights.maker.get(value, -1)
    if made < before:
        return {value}
    return {s for v in graph.ops[made].inputs for s in _available(graph, v, weights, before)}


def _arrives(graph: Graph, value: int, weights: _Weights, before: int) -> bool:
    """Whether a value is a tensor of the batch, or made in the same phase before an operator."""
    made, typed = weights.maker.get(value), graph.values[value]
    if not typed.shape or typed.dtype.startswith("key<"):
        return False
    if any(value in known for known in (weights.values, weights.held, weights.gradients)):
        return False
    if made is None:
        return any(i.value == value for i in graph.inputs_of(Role.BATCH))
    return made < before and graph.ops[made].phase is graph.ops[before].phase
