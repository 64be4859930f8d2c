"""Activations of a one-stage plan that wait for their backward in the host's memory, copied there and back in its jit.

Between its forward and its backward such a layer's results have no reader but the copy. They are fetched before the
first backward operator that reads one of them, behind a barrier with the cotangents that arrive there, so that the
compiler cannot fetch everything at once; it makes the copies run beside compute. For TPUs, that is: XLA on CPU has one
memory and drops them, and on GPUs it fetches all at once nevertheless (`runtime/compile.py` refuses). Pipelines move
the same between their programs (`emit/host_memory.py`).

In: `Annotated`. Out: `Annotated`. Source: Rhu et al. (vDNN), arXiv:1602.08124; `jax.checkpoint`'s offloading policies
do the same to a function.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from planner.core.graph import Phase, Role
from planner.core.plan import PlanRecord
from planner.emit.annotated import Annotated
from planner.emit.contributions import ways_to_gradients
from planner.emit.edit import Edit


@dataclass(frozen=True)
class _Fetch:
    """What is fetched before an operator: values, the cotangents that hold it back, and who reads those."""

    values: tuple[int, ...]
    arriving: tuple[int, ...]
    readers: tuple[int, ...]


def with_host_copies(record: PlanRecord, given: Annotated) -> Annotated:
    """The same computation, with what the layers in `StagePlan.offload` keep copied to the host and back."""
    if len(record.stages) != 1 or not record.stages[0].offload:
        return given
    sent = _sent(record, given)
    if not sent:
        return given
    fetches, edit = _fetches(given, sent), Edit(given)
    graph = given.graph
    away: dict[int, int] = {}
    late: dict[int, int] = {}  # value -> the copy that came back
    cotangents: dict[int, dict[int, int]] = {}
    for n, op in enumerate(graph.ops):
        if n in fetches:
            what = fetches[n]
            held = edit.barrier((*(away[v] for v in what.values), *what.arriving), 0, Phase.BACKWARD, op.origin)
            late |= {v: edit.from_host(held[away[v]], v, 0, op.origin) for v in what.values}
            for reader in what.readers:
                cotangents[reader] = {**cotangents.get(reader, {}), **{c: held[c] for c in what.arriving}}
        edit.keep(n, {**late, **cotangents.get(n, {})} if op.phase is Phase.BACKWARD else {})
        away |= {v: edit.to_host(v, 0, op.origin) for v in op.results if v in sent}
    return edit.finish()


def _sent(record: PlanRecord, given: Annotated) -> frozenset[int]:
    """Results of forward operators of those layers that a backward operator reads. Scalars stay."""
    graph = given.graph
    ranges = [record.layers[layer].ops for layer in record.stages[0].offload]
    made = {v for op in graph.ops if op.phase is Phase.FORWARD and any(a <= op.origin < b for a, b in ranges)
            for v in op.results if graph.values[v].shape}
    weights = {i.value for i in graph.inputs_of(Role.PARAM)}
    for op in graph.ops:  # what is made of parameters alone is made again, or is a parameter
        if op.phase is Phase.FORWARD and op.inputs and weights.issuperset(op.inputs):
            weights.update(op.results)
    read = {v for op in graph.ops if op.phase is Phase.BACKWARD for v in op.inputs}
    return frozenset(made & read - weights)


def _fetches(given: Annotated, sent: frozenset[int]) -> Mapping[int, _Fetch]:
    """Operator before which something is fetched -> what. Values first read in one layer come together."""
    graph = given.graph
    backward = [n for n, op in enumerate(graph.ops) if op.phase is Phase.BACKWARD]
    first: dict[int, int] = {}
    for n in backward:
        for v in graph.ops[n].inputs:
            if v in sent:
                first.setdefault(v, n)
    late = {v for n in backward for v in graph.ops[n].results}
    no_reason = ways_to_gradients(graph)

    def newest(start: int) -> tuple[int, ...]:
        """The last cotangent made before an operator that reads none."""
        before = (v for n in reversed(backward) if n < start for v in graph.ops[n].results if v not in no_reason)
        return tuple(v for v in (next(before, None),) if v is not None)

    found: dict[int, _Fetch] = {}
    for start in sorted(set(first.values())):
        values = tuple(v for v in sorted(first) if first[v] == start)
        arriving = tuple(sorted({v for v in graph.ops[start].inputs if v in late and v not in no_reason})) \
            or newest(start)
        readers = tuple(n for n in backward if n >= start and set(arriving).intersection(graph.ops[n].inputs))
        found[start] = _Fetch(values, arriving, readers)
    return found
