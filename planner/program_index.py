"""What every later step asks of a whole program, computed once: who makes and reads a value, and what belongs together.

In: a `Program`. Out: a `ProgramIndex`. Cotangents and carried state are stored as the forward value they belong to,
their *owner*; the batch is followed from the inputs through the operators' factors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

from planner.core.graph import Graph, Phase, Program, Role
from planner.costs.memory import value_bytes
from planner.rules import RuleTable


@dataclass(frozen=True)
class ProgramIndex:
    """What every layer needs to know of the whole program, computed once."""

    program: Program
    rules: RuleTable
    owner: Mapping[int, int]
    role: Mapping[int, Role]
    by_origin: Mapping[int, tuple[int, ...]]
    readers: Mapping[int, tuple[int, ...]]  # owner -> origins of the forward operators whose units touch it
    maker: Mapping[int, int]  # owner -> origin of the forward operator that makes it
    opt_state_bytes: Mapping[tuple[str, int | None], int]
    first_reader: Mapping[int, int]  # owner -> first origin that reads it
    batch_dims: frozenset[tuple[int, int]]
    differentiable: frozenset[int]  # forward values that have a cotangent
    alive_at_peak: frozenset[int]  # values of a user's train step that are alive when most bytes are
    sums: frozenset[int]  # operators that add up the cotangents of a value

    @cached_property
    def shared(self) -> Mapping[int, tuple[int, ...]]:
        """Parameters that several forward operators' units touch, and the origins of those."""
        return {i.value: self.readers[i.value] for i in self.program.micro.inputs_of(Role.PARAM)
                if len(self.readers.get(i.value, ())) > 1}

    @cached_property
    def names(self) -> Mapping[int, tuple[str, int | None]]:
        """Parameter -> its path and row."""
        return {i.value: (i.path, i.row) for i in self.program.micro.inputs_of(Role.PARAM)}

    @cached_property
    def owned(self) -> Mapping[int, tuple[int, ...]]:
        """Forward value that is no parameter -> the values that it owns."""
        found: dict[int, list[int]] = {}
        for value, own in self.owner.items():
            if self.role.get(own) is not Role.PARAM:
                found.setdefault(own, []).append(value)
        return {own: tuple(values) for own, values in found.items()}

    @cached_property
    def lasting(self) -> frozenset[int]:
        """Values that outlast the caches: the graph's inputs and outputs, and what the forward part leaves for the
        backward part to read."""
        micro = self.program.micro
        read = {v for op in micro.ops if op.phase is Phase.BACKWARD for v in op.inputs}
        left = {v for op in micro.ops if op.phase is not Phase.BACKWARD for v in op.results} & read
        ends = {o.operand for o in micro.outputs if isinstance(o.operand, int)}
        return frozenset(left | ends | {i.value for i in micro.inputs})

    @cached_property
    def spans(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Owners that operators make and read, ascending, with the origins that make and last read each."""
        owner = sorted([v for v in self.maker if v not in self.role and self.readers.get(v)])
        made, read = [self.maker[v] for v in owner], [self.readers[v][-1] for v in owner]
        return np.array(owner, dtype=np.int64), np.array(made, dtype=np.int64), np.array(read, dtype=np.int64)


def index_program(program: Program) -> ProgramIndex:
    """Index a program."""
    micro = program.micro
    owner = dict(owners(micro))
    param_value = {(i.path, i.row): i.value for i in micro.inputs_of(Role.PARAM)}
    for out in micro.outputs_of(Role.GRAD):
        if isinstance(out.operand, int) and out.operand not in owner:
            owner[out.operand] = param_value[out.path, out.row]
    if program.kind == "step":
        owner.update(_carried(micro))
    by_origin: dict[int, list[int]] = {}
    readers: dict[int, set[int]] = {}
    maker: dict[int, int] = {}
    for n, op in enumerate(micro.ops):
        by_origin.setdefault(op.origin, []).append(n)
        for v in op.inputs:
            readers.setdefault(owner.get(v, v), set()).add(op.origin)
        if op.phase is Phase.FORWARD:
            maker.update(dict.fromkeys(op.results, op.origin))
    for op in micro.ops:
        for v in op.results:
            maker.setdefault(owner.get(v, v), op.origin)
    rules = RuleTable(micro)
    return ProgramIndex(
        program, rules, owner, {i.value: i.role for i in micro.inputs}, {o: tuple(v) for o, v in by_origin.items()},
        {v: tuple(sorted(o)) for v, o in readers.items()}, maker, opt_state_bytes(program),
        {v: min(o) for v, o in readers.items()}, batch_dimensions(micro, rules),
        frozenset(v for v, _ in micro.cotangent_of), _alive_at_peak(micro) if program.kind == "step" else frozenset(),
        frozenset(n for n, op in enumerate(micro.ops)
                  if op.primitive == "add_any" and all(r in owner for r in op.results)))


def _carried(graph: Graph) -> dict[int, int]:
    """New value of a carried state leaf -> the input that held the old one: they are stored alike."""
    old = {i.path: i.value for i in graph.inputs_of(Role.STATE)}
    return {o.operand: old[o.path] for o in graph.outputs_of(Role.STATE)
            if isinstance(o.operand, int) and o.path in old and o.operand not in old.values()
            and graph.values[o.operand] == graph.values[old[o.path]]}


def opt_state_bytes(program: Program) -> dict[tuple[str, int | None], int]:
    """Bytes of optimizer state per parameter: leaves whose path ends in the parameter's path."""
    if program.update is None:
        return {}
    update = program.update
    params = {(i.path, i.row) for i in update.inputs_of(Role.PARAM)}
    found: dict[tuple[str, int | None], int] = {}
    for leaf in update.inputs_of(Role.OPT_STATE):
        parts = leaf.path.split("/")
        for k in range(len(parts)):
            key = ("/".join(parts[k:]), leaf.row)
            if key in params:
                found[key] = found.get(key, 0) + value_bytes(update.values[leaf.value])
                break
    return found


def _alive_at_peak(graph: Graph) -> frozenset[int]:
    """Values made by operators that are alive at the operator where most bytes are, in the graph's order."""
    last = {v: n for n, op in enumerate(graph.ops) for v in op.inputs}
    live: set[int] = set()
    size, most, best = 0, 0, frozenset[int]()
    for n, op in enumerate(graph.ops):
        for r in op.results:
            if r in last:
                live.add(r)
                size += value_bytes(graph.values[r])
        if size > most:
            most, best = size, frozenset(live)
        for v in set(op.inputs) & live:
            if last[v] == n:
                live.discard(v)
                size -= value_bytes(graph.values[v])
    return best


def batch_dimensions(graph: Graph, rules: RuleTable) -> frozenset[tuple[int, int]]:
    """(value, dimension) pairs that carry the batch: dimension 0 of the batch inputs, followed through operators'
    factors."""
    return input_dimensions(graph, rules, 0)


def input_dimensions(graph: Graph, rules: RuleTable, dimension: int) -> frozenset[tuple[int, int]]:
    """(value, dimension) pairs that come from one dimension of the batch inputs, by operators' factors."""
    found = {i.value: {dimension} for i in graph.inputs_of(Role.BATCH) if len(graph.values[i.value].shape) > dimension}
    for n, op in enumerate(graph.ops):
        if found.keys().isdisjoint(op.inputs):
            continue
        rule = rules[n]
        marked = {binding[d] for o, binding in zip(op.operands, rule.operands, strict=True) if isinstance(o, int)
                  for d in found.get(o, ())} - {None}
        for r, binding in zip(op.results, rule.results, strict=True):
            if not marked.isdisjoint(binding):
                found[r] = {d for d, f in enumerate(binding) if f in marked}
    return frozenset((v, d) for v, dims in found.items() for d in dims)


def _param_forms(forward: Graph) -> tuple[int, ...]:
    """Values that are a parameter cast or reshaped, made by operators that read nothing else."""
    found = {i.value for i in forward.inputs_of(Role.PARAM)}
    params = set(found)
    for op in forward.ops:
        if len(op.operands) == len(op.inputs) == len(op.results) == 1 and op.inputs[0] in found and \
                prod(forward.values[op.results[0]].shape) == prod(forward.values[op.inputs[0]].shape):
            found.add(op.results[0])
    return tuple(sorted(found - params))


def owners(graph: Graph) -> dict[int, int]:
    """Cotangent value -> the forward value it belongs to: total cotangents, and the contributions that are summed to
    them.

    A cotangent that passes through an addition unchanged is the total of several values; it belongs to the latest of
    them.
    """
    producer = graph.producers
    found: dict[int, int] = {}
    for value, total in sorted(graph.cotangent_of, key=lambda pair: producer.get(pair[0], -1)):
        found[total] = value
    totals = dict(found)
    for total, value in totals.items():
        stack = [total]
        while stack:
            n = producer.get(stack.pop())
            if n is not None and graph.ops[n].primitive == "add_any":
                for v in graph.ops[n].inputs:
                    if v not in found:
                        found[v] = value
                        stack.append(v)
    return found


def crossing(index: ProgramIndex, boundary: int) -> tuple[int, ...]:
    """Owners made before forward operator `boundary` and read at or after it (inputs and constants left out)."""
    owner, made, read = index.spans
    return tuple(int(v) for v in owner[(made < boundary) & (read >= boundary)])


def crossing_at(index: ProgramIndex, boundaries: Sequence[int]) -> dict[int, list[int]]:
    """`crossing` at each of some boundaries, ascending."""
    owner, made, read = index.spans
    first = np.searchsorted(boundaries, made, side="right")
    end = np.searchsorted(boundaries, read, side="right")
    found: dict[int, list[int]] = {b: [] for b in boundaries}
    for n in np.flatnonzero(first < end).tolist():
        for b in boundaries[first[n]:end[n]]:
            found[b].append(int(owner[n]))
    return found


def torn_bytes(index: ProgramIndex) -> NDArray[np.float64]:
    """Per position p, bytes of the cotangents that cross though their owner does not: it is made at p or later, and
    they are read before; [operators + 1].

    Two values that differ by an addition share one cotangent, owned by the later of them. A cut between the two would
    leave the crossing unpriced.

    Casts and reshapes of a parameter that cross count as well: parted from what reads them they would be activations,
    summed over the batch in every microbatch, where a layer that has both may shard and defer the parameter's gradient.
    """
    micro = index.program.micro
    read: dict[int, int] = {}  # cotangent -> first origin that reads it
    for n, op in enumerate(micro.ops):
        for v in () if n in index.sums else op.inputs:
            own = index.owner.get(v, v)
            if own != v and own not in index.role and op.origin < index.maker.get(own, -1):
                read[v] = min(op.origin, read.get(v, op.origin))
    change = np.zeros(len(index.program.forward.ops) + 2)
    for v, first in read.items():
        change[first + 1] += value_bytes(micro.values[v])
        change[index.maker[index.owner[v]] + 1] -= value_bytes(micro.values[v])
    for v in _param_forms(index.program.forward):
        made, last = index.maker[v], index.readers.get(v, (-1,))[-1]
        if made < last:
            change[made + 1] += value_bytes(micro.values[v])
            change[last + 1] -= value_bytes(micro.values[v])
    return np.cumsum(change)[: len(index.program.forward.ops) + 1]
