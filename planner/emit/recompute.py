"""Recomputation: layers whose forward is run again in the backward, from the values that enter them.

Before the first backward operator of such a layer, its forward operators are repeated on values behind a barrier, and
the layer's backward operators read the repeated results. Nothing but what enters the layer is then alive between
forward and backward (Chen et al., arXiv:1604.06174; `jax.checkpoint` does the same to a function). Cotangents that
arrive are put behind the same barrier, so that the repetition cannot start before they are there.

In: `Annotated`. Out: `Annotated`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import MappingProxyType

from planner.core.graph import Graph, Op, Operand, Phase, Role, Value
from planner.core.plan import PlanRecord
from planner.core.spec import Spec
from planner.emit.annotated import Annotated
from planner.emit.payloads import Barrier


@dataclass(frozen=True)
class _Repeat:
    """What one layer needs: the operators to repeat, what they read from outside, arriving cotangents, who reads."""

    stage: int
    ops: tuple[int, ...]
    entering: tuple[int, ...]
    arriving: tuple[int, ...]
    readers: frozenset[int]


def with_recompute(record: PlanRecord, given: Annotated) -> Annotated:
    """The same computation, with the layers in `StagePlan.recompute` run again in the backward."""
    repeats = [r for stage in record.stages for layer in stage.recompute
               if (r := _repeat(given, stage.index, record.layers[layer].ops)) is not None]
    if not repeats:
        return given
    edit = _Edit(given)
    before = {min(r.readers): r for r in repeats}
    renames: dict[int, dict[int, int]] = {}
    for n, op in enumerate(given.graph.ops):
        if n in before:
            names = edit.repeat(before[n])
            renames |= dict.fromkeys(before[n].readers, names)
        edit.keep(n, op, renames.get(n, {}))
    return edit.finish()


def _repeat(given: Annotated, stage: int, origins: tuple[int, int]) -> _Repeat | None:
    graph = given.graph
    mine = [n for n, op in enumerate(graph.ops) if origins[0] <= op.origin < origins[1]]
    forward = [n for n in mine if graph.ops[n].phase is Phase.FORWARD]
    backward = [n for n in mine if graph.ops[n].phase is Phase.BACKWARD]
    made = {v for n in forward for v in graph.ops[n].results}
    wanted = {v for n in backward for v in graph.ops[n].inputs if v in made}
    chosen: list[int] = []
    for n in reversed(forward):
        if wanted.intersection(graph.ops[n].results):
            chosen.append(n)
            wanted.update(graph.ops[n].inputs)
    if not chosen:
        return None
    again = {v for n in chosen for v in graph.ops[n].results}
    own = {v for n in backward for v in graph.ops[n].results}
    late = {v for op in graph.ops if op.phase is Phase.BACKWARD for v in op.results}
    constants = {v for v, _ in graph.constants} | {i.value for i in graph.inputs_of(Role.CONST)}
    entering = _ordered(v for n in chosen for v in graph.ops[n].inputs if v not in again and v not in constants)
    arriving = _ordered(v for n in backward for v in graph.ops[n].inputs if v in late and v not in own)
    return _Repeat(stage, tuple(reversed(chosen)), entering, arriving, frozenset(backward))


def _ordered(values: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(values)))


class _Edit:
    """A graph being rewritten: operators are kept or added in order, their annotations with them."""

    def __init__(self, given: Annotated) -> None:
        self.given = given
        self.values: list[Value] = list(given.graph.values)
        self.ops: list[Op] = []
        self.stage_of: list[int] = []
        self.specs: list[dict[int, Spec]] = [dict(s) for s in given.specs]
        self.uses: dict[tuple[int, int], Spec] = {}
        self.positions = {n: [p for m, p in given.uses if m == n] for n in {m for m, _ in given.uses}}

    def keep(self, n: int, op: Op, names: dict[int, int]) -> None:
        """Operator `n` of the given graph, reading renamed values."""
        operands: tuple[Operand, ...] = tuple(names.get(o, o) if isinstance(o, int) else o for o in op.operands)
        self._add(n, replace(op, operands=operands), self.given.stage_of[n])

    def repeat(self, what: _Repeat) -> dict[int, int]:
        """Emit barrier and repeated operators; returns old value -> new value."""
        held = (*what.entering, *what.arriving)
        names = {v: self._twin(v, what.stage) for v in held}
        if held:
            self._add(None,
                      Op("optimization_barrier", held, tuple(names[v] for v in held), MappingProxyType({}), (), "",
                               Phase.BACKWARD, self.given.graph.ops[what.ops[0]].origin, Barrier()), what.stage)
        for n in what.ops:
            op = self.given.graph.ops[n]
            names |= {v: self._twin(v, what.stage) for v in op.results}
            operands = tuple(names.get(o, o) if isinstance(o, int) else o for o in op.operands)
            self._add(n,
                      replace(op, operands=operands, results=tuple(names[v] for v in op.results), phase=Phase.BACKWARD),
                      what.stage)
        return names

    def finish(self) -> Annotated:
        """The rewritten graph with its annotations."""
        graph: Graph = replace(self.given.graph, values=tuple(self.values), ops=tuple(self.ops))
        return Annotated(graph, tuple(self.stage_of), tuple(MappingProxyType(s) for s in self.specs),
                         MappingProxyType(self.uses))

    def _add(self, old: int | None, op: Op, stage: int) -> None:
        if old is not None:
            for position in self.positions.get(old, ()):
                self.uses[len(self.ops), position] = self.given.uses[old, position]
        self.ops.append(op)
        self.stage_of.append(stage)

    def _twin(self, value: int, stage: int) -> int:
        self.values.append(self.values[value])
        new = len(self.values) - 1
        if value in self.specs[stage]:
            self.specs[stage][new] = self.specs[stage][value]
        return new
