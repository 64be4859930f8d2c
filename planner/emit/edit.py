"""A graph under a plan, being rewritten: operators are kept or added in order, and their annotations go with them.

In: `Annotated`, operator by operator. Out: `Annotated`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from planner.core.graph import Graph, Op, Operand, Phase, Value
from planner.core.plan import DEVICE, HOST
from planner.core.spec import Spec
from planner.emit.annotated import Annotated
from planner.emit.payloads import Barrier, Copy, InMemory

Fetch = tuple[int, int, Spec]
"""(stage, value, the sharding that an operator of the stage needs it in)."""


class Edit:
    """The rewritten graph so far."""

    def __init__(self, given: Annotated) -> None:
        self._given = given
        self._values: list[Value] = list(given.graph.values)
        self._ops: list[Op] = []
        self._stage_of: list[int] = []
        self._specs: list[dict[int, Spec]] = [dict(s) for s in given.specs]
        self._uses: dict[tuple[int, int], Spec] = {}
        self._positions: dict[int, list[int]] = {}
        for n, position in given.uses:
            self._positions.setdefault(n, []).append(position)

    def keep(self, n: int, names: Mapping[int, int]) -> None:
        """Operator `n` of the given graph, reading renamed values."""
        op = self._given.graph.ops[n]
        operands = _renamed(op.operands, names) if names else op.operands
        self._add(n, op if operands == op.operands else replace(op, operands=operands), self._given.stage_of[n])

    def keep_made(self, n: int, made: Mapping[int, Spec]) -> None:
        """Operator `n`, some of its results made in other shardings than they settle in: a copy of each settles."""
        op, stage = self._given.graph.ops[n], self._given.stage_of[n]
        before = {v: self._twin(v, stage) for v in made}
        self._add(n, replace(op, results=tuple(before.get(v, v) for v in op.results)) if made else op, stage)
        for v, spec in made.items():
            self._specs[stage][before[v]] = spec
            self._copy(before[v], v, op, stage)

    def keep_resharded(self, n: int, wanted: Mapping[int, Fetch], made: dict[Fetch, int]) -> None:
        """Operator `n`, some operands read from copies in the sharding needed; `made`: those there are so far."""
        op, stage = self._given.graph.ops[n], self._given.stage_of[n]
        operands = list(op.operands)
        for at, fetch in wanted.items():
            _, value, spec = fetch
            if fetch not in made:
                made[fetch] = self._twin(value, stage)
                self._specs[stage][made[fetch]] = spec
                self._copy(value, made[fetch], op, stage)
            operands[at] = made[fetch]
        self._add(n, replace(op, operands=tuple(operands)), stage)

    def repeat(self, n: int, names: Mapping[int, int], stage: int) -> dict[int, int]:
        """Operator `n` once more, as part of the backward, with results of its own: old result -> new."""
        op = self._given.graph.ops[n]
        made = {v: self._twin(v, stage) for v in op.results}
        self._add(n, replace(op, operands=_renamed(op.operands, names), results=tuple(made.values()),
                             phase=Phase.BACKWARD), stage)
        return made

    def barrier(self, values: Sequence[int], stage: int, phase: Phase, origin: int) -> dict[int, int]:
        """Values behind a barrier: old value -> new."""
        names = {v: self._twin(v, stage) for v in values}
        self._add(None, Op("optimization_barrier", tuple(values), tuple(names.values()), MappingProxyType({}), (), "",
                           phase, origin, Barrier()), stage)
        return names

    def to_host(self, value: int, stage: int, origin: int) -> int:
        """A copy of a forward value in the host's memory. Nothing constrains it: it lies as the value does."""
        self._values.append(self._values[value])
        new = len(self._values) - 1
        self._add(None, Op("device_put", (value,), (new,), MappingProxyType({}), (), "", Phase.FORWARD, origin,
                           InMemory(HOST)), stage)
        return new

    def from_host(self, copy: int, value: int, stage: int, origin: int) -> int:
        """A copy on the devices, for the backward, of what was sent to the host: of `value`, as which it lies."""
        new = self._twin(value, stage)
        self._add(None, Op("device_put", (copy,), (new,), MappingProxyType({}), (), "", Phase.BACKWARD, origin,
                           InMemory(DEVICE)), stage)
        return new

    def finish(self) -> Annotated:
        """The rewritten graph with its annotations."""
        graph: Graph = replace(self._given.graph, values=tuple(self._values), ops=tuple(self._ops))
        return Annotated(graph, tuple(self._stage_of), tuple(MappingProxyType(s) for s in self._specs),
                         MappingProxyType(self._uses), self._given.sums)

    def _add(self, old: int | None, op: Op, stage: int) -> None:
        if old is not None:
            for position in self._positions.get(old, ()):
                self._uses[len(self._ops), position] = self._given.uses[old, position]
        self._ops.append(op)
        self._stage_of.append(stage)

    def _copy(self, source: int, copy: int, near: Op, stage: int) -> None:
        """A copy of a value, which may lie otherwise, as a part of what an operator does."""
        self._add(None, Op("copy", (source,), (copy,), MappingProxyType({}), (), near.source, near.phase, near.origin,
                           Copy(self._values[copy].shape)), stage)

    def _twin(self, value: int, stage: int) -> int:
        self._values.append(self._values[value])
        new = len(self._values) - 1
        if value in self._specs[stage]:
            self._specs[stage][new] = self._specs[stage][value]
        return new


def _renamed(operands: Sequence[Operand], names: Mapping[int, int]) -> tuple[Operand, ...]:
    return tuple([names.get(o, o) if isinstance(o, int) else o for o in operands])
