"""The driver of a pipeline's tasks: what surrounds each call of a stage's program, prepared once, done step by step.

Activations and cotangents go to the stages that read them as soon as they are made, in the sharding wanted there. State
made by one microbatch is handed to the next. Everything that is the same in every step is looked up beforehand: which
arguments of a program stay (parameters, constants), which a microbatch brings, what nobody reads afterwards, and what
is sent where. A step then goes through lists; nothing waits for a device, unless activations go to the host's memory
(`host_transfers.py`).

In: code and programs of every stage. Out: `Driver`; for each step, a `Drive`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
from jax.sharding import NamedSharding

from planner.core.graph import Role
from planner.emit.meshes import sharding
from planner.emit.pipeline_code import PipelineCode
from planner.runtime.batches import BatchLeaf, in_parts
from planner.runtime.host_transfers import Waiting
from planner.runtime.placement import Placement
from planner.runtime.stage_functions import StageFunctions
from planner.runtime.transfer import Transfers
from planner.schedules import Kind, Task


@dataclass(frozen=True)
class Sending:
    """Results of a task that a stage reads: their places among the results, the values that they are there (of state,
    what it is for the next microbatch), and how they lie."""

    stage: int
    places: tuple[int, ...]
    values: tuple[int, ...]
    lie: tuple[NamedSharding, ...]
    wanted: tuple[NamedSharding, ...]


@dataclass(frozen=True)
class TaskWork:
    """A kind of task of a stage.

    Attributes:
      program: the jitted function; None where it would make nothing.
      summing: whether it takes and gives gradient sums.
      reads: values of its arguments.
      brought: (position, value) of arguments that come with a microbatch.
      done: of these, those that no later task of the microbatch reads.
      kept: (place among the results, value) that a later task of the same microbatch and stage reads.
      sendings: to other stages.
      shown: (place, value) of losses and other outputs.
      states: (place, value, how it lies) of state.
      handings: of state, to the stages that read it for the next microbatch.
    """

    program: Any
    summing: bool
    reads: tuple[int, ...]
    brought: tuple[tuple[int, int], ...]
    done: tuple[int, ...]
    kept: tuple[tuple[int, int], ...]
    sendings: tuple[Sending, ...]
    shown: tuple[tuple[int, int], ...]
    states: tuple[tuple[int, int, NamedSharding], ...]
    handings: tuple[Sending, ...]


@dataclass(frozen=True)
class FixedInputs:
    """Inputs of one role that a stage reads: positions among the graph's inputs of the role, values, and how they shall
    lie there."""

    positions: tuple[int, ...]
    values: tuple[int, ...]
    wanted: tuple[NamedSharding, ...]


class Driver:
    """What every step of a pipeline has in common."""

    def __init__(self, code: PipelineCode, placed: Placement, stages: Sequence[StageFunctions], transfers: Transfers,
                 leaves: Sequence[BatchLeaf]) -> None:
        self.code, self.placed, self.stages, self.transfers = code, placed, tuple(stages), transfers
        graph, every = code.given.graph, range(len(stages))
        self._leaves = tuple(leaves)
        split = {i.value for i, leaf in zip(graph.inputs_of(Role.BATCH), leaves, strict=True) if leaf.split}
        self._with_microbatch = split | {v for stage in every for role in (Role.STATE, None)
                                         for v in code.reads_on(stage, role)}
        self.work = {(s, kind): self._work(s, kind) for s in every for kind in code.kinds}
        self.params = [self._inputs(s, Role.PARAM, frozenset()) for s in every]
        self.whole = [self._inputs(s, Role.BATCH, split) for s in every]
        whole_batch = {v for inputs in self.whole for v in inputs.values}
        self.parts = [self._inputs(s, Role.BATCH, whole_batch) for s in every]
        homes = placed.shardings(placed.params)
        self.param_homes = [tuple(homes[n] for n in inputs.positions) for inputs in self.params]
        self._constants: dict[int, dict[int, Any]] = {}
        self.first_states = [(i.value, lies, self._readers(i.value)) for i, lies in
                             zip(graph.inputs_of(Role.STATE), placed.shardings(placed.state), strict=True)]

    def lies(self, value: int, stage: int) -> NamedSharding:
        """How a value lies on a stage."""
        return sharding(self.placed.meshes[stage], self.code.spec(value, stage))

    def constants(self, stage: int) -> dict[int, Any]:
        """The graph's constants on a stage that reads them; brought there once."""
        if stage not in self._constants:
            known, mine = dict(self.code.given.graph.constants), self.code.reads_on(stage, Role.CONST)
            placed = self.transfers.place([known[v] for v in mine], [self.lies(v, stage) for v in mine])
            self._constants[stage] = dict(zip(mine, placed, strict=True))
        return self._constants[stage]

    def microbatches(self, stage: int, batch: Sequence[Any], count: int) -> list[dict[int, Any]]:
        """Per microbatch, what a stage reads of it: value -> array."""
        inputs = self.parts[stage]
        parts = in_parts([batch[n] for n in inputs.positions], count)
        placed = iter(self.transfers.place(parts, inputs.wanted * count))
        return [{v: next(placed) for v in inputs.values} for _ in range(count)]

    def _inputs(self, stage: int, role: Role, but: frozenset[int] | set[int]) -> FixedInputs:
        read = set(self.code.reads_on(stage, role)) - but
        found = [(n, i.value) for n, i in enumerate(self.code.given.graph.inputs_of(role)) if i.value in read]
        return FixedInputs(tuple(n for n, _ in found), tuple(v for _, v in found),
                           tuple(self.lies(v, stage) for _, v in found))

    def _readers(self, value: int) -> tuple[tuple[int, NamedSharding], ...]:
        return tuple((s, self.lies(value, s)) for s in self.code.readers.get(value, ()))

    def _work(self, stage: int, kind: Kind) -> TaskWork:
        functions, graph, readers = self.stages[stage], self.code.given.graph, self.code.readers
        code, later = functions.codes[kind], self.code.read_after(stage, kind)
        shown = {o.operand for o in graph.outputs if o.role in (Role.LOSS, Role.AUX)}
        becomes = {new: old for old, new in self.code.state_successor.items()}
        brought = tuple((n, v) for n, v in enumerate(code.reads) if v in self._with_microbatch)
        numbered = tuple(enumerate(code.makes))
        others = sorted({s for v in code.makes for s in readers.get(v, ()) if s != stage})
        states = tuple((n, v, self.lies(v, stage)) for n, v in numbered if v in becomes)
        handed = sorted({s for _, v, _ in states for s in readers.get(becomes[v], ())})
        summing = kind is functions.summing
        return TaskWork(functions.programs[kind] if summing or code.makes else None, summing, code.reads, brought,
                        tuple(dict.fromkeys(v for _, v in brought if v not in later)),
                        tuple((n, v) for n, v in numbered if v in later),
                        tuple(self._sending(stage, s, numbered) for s in others),
                        tuple((n, v) for n, v in numbered if v in shown), states,
                        tuple(self._sending(stage, s, [(n, v) for n, v, _ in states], becomes) for s in handed))

    def _sending(self, stage: int, reader: int, made: Sequence[tuple[int, int]],
                 becomes: Mapping[int, int] = MappingProxyType({})) -> Sending:
        """What a stage reads of (place, value) that were made, as it is called there."""
        mine = [(n, v, becomes.get(v, v)) for n, v in made]
        mine = [(n, v, there) for n, v, there in mine if reader in self.code.readers.get(there, ())]
        return Sending(reader, tuple(n for n, _, _ in mine), tuple(there for _, _, there in mine),
                       tuple(self.lies(v, stage) for _, v, _ in mine),
                       tuple(self.lies(there, reader) for _, _, there in mine))


class Drive:
    """One step under way: what every stage holds for every microbatch.

    Attributes:
      sums: gradient sums per stage.
      outputs: per stage, value -> microbatch -> array.
    """

    def __init__(self, driver: Driver, microbatches: int, waiting: Waiting | None = None) -> None:
        self._driver, self._transfers, self._count = driver, driver.transfers, microbatches
        self._waiting = waiting
        stages = driver.stages
        self.sums: list[Any] = [f.zeros() if driver.code.grads[s] else () for s, f in enumerate(stages)]
        self.outputs: list[dict[int, dict[int, Any]]] = [{} for _ in stages]
        self._held: dict[tuple[int, int], dict[int, Any]] = {}
        self._arguments: dict[tuple[int, Kind], list[Any]] = {}
        self._made_state: dict[int, tuple[Any, NamedSharding]] = {}  # of the last microbatch

    def give(self, params: Sequence[Any], batch: Sequence[Any], state: Sequence[Any]) -> None:
        """Parameters and every microbatch of the batch to the stages that read them, and the first state."""
        driver = self._driver
        for stage in range(len(driver.stages)):
            inputs, whole = driver.params[stage], driver.whole[stage]
            fixed = dict(driver.constants(stage))
            fixed.update(zip(inputs.values, self._transfers.send(
                [params[n] for n in inputs.positions], driver.param_homes[stage], inputs.wanted), strict=True))
            fixed.update(zip(whole.values, self._transfers.place([batch[n] for n in whole.positions], whole.wanted),
                             strict=True))
            for kind in driver.code.kinds:
                self._arguments[stage, kind] = [fixed.get(v) for v in driver.work[stage, kind].reads]
            for m, parts in enumerate(driver.microbatches(stage, batch, self._count)):
                self._held[stage, m] = parts
        for (value, lies, readers), x in zip(driver.first_states, state, strict=True):
            for stage, wanted in readers:
                self._held[stage, 0][value] = self._transfers.send([x], [lies], [wanted])[0]

    def do(self, task: Task) -> None:
        """Start one task, and send on what it makes."""
        stage, m = task.stage, task.microbatch
        if self._waiting is not None:
            self._waiting.before(task, self._held)
        work, held = self._driver.work[stage, task.phase], self._held[stage, m]
        made = self._called(work, stage, task.phase, held)
        for v in work.done:
            del held[v]
        for n, v in work.kept:
            held[v] = made[n]
        for n, v in work.shown:
            self.outputs[stage].setdefault(v, {})[m] = made[n]
        if m < self._count - 1:
            self._send(work.handings, made, m + 1)
        else:
            self._made_state.update((v, (made[n], lies)) for n, v, lies in work.states)
        self._send(work.sendings, made, m)
        if self._waiting is not None:
            self._waiting.after(task, self._held)

    def _send(self, sendings: Sequence[Sending], made: Sequence[Any], microbatch: int) -> None:
        for sending in sendings:
            moved = self._transfers.send([made[n] for n in sending.places], sending.lie, sending.wanted)
            self._held[sending.stage, microbatch].update(zip(sending.values, moved, strict=True))

    def taken_sums(self, stage: int) -> Any:
        """The gradient sums of a stage, which nobody holds any more."""
        sums, self.sums[stage] = self.sums[stage], ()
        return sums

    def last_state(self) -> tuple[Any, ...]:
        """The state after the last microbatch, at home."""
        driver = self._driver
        found = [self._made_state[driver.code.state_successor[value]] for value, _, _ in driver.first_states]
        return tuple(self._transfers.send([x], [lies], [home])[0] for (x, lies), (_, home, _) in
                     zip(found, driver.first_states, strict=True))

    def _called(self, work: TaskWork, stage: int, kind: Kind, held: Mapping[int, Any]) -> Sequence[Any]:
        if work.program is None:
            return ()
        arguments = self._arguments[stage, kind].copy()
        for position, v in work.brought:
            arguments[position] = held[v]
        if not work.summing:
            return work.program(*arguments)
        self.sums[stage], made = work.program(self.sums[stage], *arguments)
        return made


def listed(by_microbatch: Mapping[int, Any]) -> list[jax.Array]:
    """Arrays in the order of their microbatches."""
    return [by_microbatch[m] for m in sorted(by_microbatch)]
