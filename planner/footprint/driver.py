"""What a pipeline's driver keeps on each stage while it starts the tasks of a step, call by call.

It mirrors `runtime/pipeline.py` on bytes: what is sent when, kept for the backward, and given back. A pipeline that is
full does the same with one microbatch after the other: once what is held repeats, the repetitions up to the last are
left out, and with them their calls, in which nothing is that the first and the last don't have.

In: an emitted plan, and what its functions take. Out: `Call`s in the order in which they are started.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from planner.core.graph import Role
from planner.costs.memory import peak, shard_bytes
from planner.emit.cutting import TaskCode
from planner.emit.deferred import ends_in_place
from planner.emit.pipeline_code import PipelineCode, pipeline_code
from planner.emit.rounds import replaced
from planner.emit.task_order import task_order
from planner.emit.update_specs import visiting_bytes
from planner.footprint.away import Away
from planner.footprint.emitted import Emitted, Function, Need
from planner.footprint.functions import finish_function, task_function
from planner.footprint.gradients import sum_bytes
from planner.footprint.repetition import Repetition, repetition
from planner.footprint.updates import update_task
from planner.schedules import Kind, Task


@dataclass(frozen=True, slots=True)
class Call:
    """A call of one of a stage's functions.

    Attributes:
      stage, name: which.
      held: bytes kept from other calls for tasks to come, and results.
      grads: bytes of gradient sums and gradients.
      temp, made: bytes that it needs while it runs, and of what it gives back in places of their own.
      op: operator at its peak (-1: none).
      beside: what the other stages of the rank hold meanwhile: (stage, held, grads).
    """

    stage: int
    name: str
    held: int
    grads: int
    temp: int
    made: int
    op: int = -1
    beside: tuple[tuple[int, int, int], ...] = ()


UPDATE = "update"
"""How names of the functions of a weight update begin."""

Needs = Callable[[str, int], Need]
"""(name of a function, stage) -> what it takes."""


@dataclass(frozen=True, slots=True)
class Walk:
    """The calls of a step in order; per stage, the most bytes of activations that a device's host holds."""

    calls: tuple[Call, ...]
    host: tuple[int, ...]


def walk(emitted: Emitted, needs: Needs | None = None) -> Walk:
    """Every call of a step. `needs` may say what functions take, as a compiler found; predicted by default.

    Names of functions: those of the schedule's kinds of tasks, `finish`, and `update0`, `update1`, ... in the order of
    the rounds.
    """
    code = pipeline_code(emitted.record, emitted.given)
    driver = _Driver(emitted, code, needs or predicted(emitted, code))
    driver.run()
    return Walk(tuple(driver.calls), tuple(driver.away.most))


def walk_update(emitted: Emitted) -> tuple[Call, ...]:
    """The calls of the weight update alone, of a plan of one stage whose step gives back gradients."""
    code = pipeline_code(emitted.record, emitted.given)
    driver = _Driver(emitted, code, predicted(emitted, code))
    driver.update()
    return tuple(driver.calls)


def predicted(emitted: Emitted, code: PipelineCode) -> Needs:
    """What functions take, predicted; each is looked at once, those of an update anew in every walk."""
    known: dict[tuple[str, int], Need] = {}
    graph, codes = emitted.program.update, emitted.update_codes
    updates = list(zip(codes, replaced(graph, codes), strict=True)) if graph is not None else []

    def needs(name: str, stage: int) -> Need:
        of = known if name.startswith(UPDATE) else emitted.known
        if (name, stage) not in of:
            of[name, stage] = _need(_function(emitted, code, updates, name, stage))
        return of[name, stage]

    return needs


def _function(emitted: Emitted, code: PipelineCode,
              updates: Sequence[tuple[TaskCode, Collection[tuple[int, int]]]], name: str, stage: int) -> Function:
    if name in code.kinds:
        kind = Kind(name)
        sums = code.grads[stage] if kind is code.kinds[-1] else ()
        return task_function(emitted, code.tasks[stage, kind], sums)
    if name == "finish":
        return finish_function(emitted, stage, code.grads[stage])
    return update_task(emitted, *updates[int(name.removeprefix(UPDATE))])


def _need(function: Function) -> Need:
    _, at = peak(function.held)
    return Need(function.temp_bytes, function.out_bytes, function.ops[at] if at < len(function.ops) else -1)


class _Driver:
    """A step under way, in bytes."""

    def __init__(self, emitted: Emitted, code: PipelineCode, needs: Needs) -> None:
        self._emitted, self._code, self._needs = emitted, code, needs
        self._graph, self._record = emitted.given.graph, emitted.record
        stages = range(len(self._record.stages))
        self._held: dict[tuple[int, int], dict[int, int]] = {}
        self._total = [0 for _ in stages]  # bytes of all that `_held` has of a stage
        self._sizes: dict[tuple[int, int], int] = {}
        self._successor_of = {new: old for old, new in code.state_successor.items()}
        self._outputs = [0 for _ in stages]  # results of the step, and of the update so far
        self._grads = [sum(sum_bytes(emitted, p, s, v[0]) for p, v in code.grads[s]) for s in stages]
        self._later = {(s, kind): code.read_after(s, kind) for s in stages for kind in code.kinds}
        self._shown = {o.operand for o in self._graph.outputs if o.role in (Role.LOSS, Role.AUX)}
        self._low = [emitted.lowering(s) for s in stages]
        self._made = [{v for (at, _), task in code.tasks.items() if at == s for v in task.makes} for s in stages]
        layout = self._record.layout
        self._mates = [[s for s in layout.stages_of(layout.rank_of[stage]) if s != stage] for stage in stages]
        self._order = task_order(self._record, code)
        self.away = Away(self._record, code, self._order)
        self.calls: list[Call] = []

    def run(self) -> None:
        """Start every task, the end of the sums, and the update."""
        for i in self._graph.inputs_of(Role.STATE):
            self._hand(self._code.readers.get(i.value, ()), i.value, 0)
        waits = any(s.offload for s in self._record.stages)
        again, at = None if waits else repetition(self._record, self._order), 0
        before: tuple[object, list[int]] | None = None
        while at < len(self._order):
            if again is not None and (at - again.first) in range(0, again.length, again.period):
                now = self._state((at - again.first) // again.period * again.microbatches), list(self._outputs)
                if before is not None and before[0] == now[0]:
                    at, again = self._skip(at, again, before[1]), None
                before = now
            self._start(self._order[at])
            at += 1
        if self._record.kind == "train":
            for stage in range(len(self._record.stages)):
                if self._code.grads[stage]:
                    self._call("finish", stage)
                    self._grads[stage] += self._needs("finish", stage).made - self._freed(stage)
            self.update()

    def _freed(self, stage: int) -> int:
        """Bytes of the gradient sums that nobody holds once the gradients are there."""
        return sum(sum_bytes(self._emitted, p, stage, v[0]) for p, v in self._code.grads[stage]
                   if not ends_in_place(self._emitted.given, p, v[0], stage))

    def _start(self, task: Task) -> None:
        for stage, change in self.away.before(task).items():
            self._total[stage] += change
        self._do(task)
        self.away.after(task, self._held.get((task.stage, task.microbatch), {}))

    def _state(self, microbatch: int) -> object:
        """What is held, microbatches counted from one."""
        return {(s, m - microbatch): dict(held) for (s, m), held in self._held.items() if held}

    def _skip(self, at: int, again: Repetition, outputs: Sequence[int]) -> int:
        """Go on where the last repetition starts: what happens in those between was seen, but that results of the step
        add up, of which there were `outputs` one repetition ago."""
        times = max(0, (again.first + again.length - at) // again.period - 1)
        shift = times * again.microbatches
        self._held = {(s, m + shift): held for (s, m), held in self._held.items()}
        for stage, (now, then) in enumerate(zip(list(self._outputs), outputs, strict=True)):
            self._outputs[stage] += times * (now - then)
        return at + times * again.period

    def _do(self, task: Task) -> None:
        stage, key, later = task.stage, (task.stage, task.microbatch), self._later[task.stage, task.phase]
        self._call(task.phase, stage)
        held = self._held.pop(key, {})
        kept = {v: b for v, b in held.items() if v in later}
        self._total[stage] += sum(kept.values()) - sum(held.values())
        if kept:
            self._held[key] = kept
        for v in self._code.tasks[stage, task.phase].makes:
            if v in self._shown:
                self._outputs[stage] += self._bytes(v, stage)
            successor = self._successor_of.get(v)
            if successor is not None:
                self._hand(self._code.readers.get(successor, ()), successor, task.microbatch + 1)
            for reader in self._code.readers.get(v, ()):
                if reader != stage or v in later:
                    self._hand((reader,), v, task.microbatch)

    def _hand(self, stages: Sequence[int], value: int, microbatch: int) -> None:
        for s in stages:
            held, size = self._held.setdefault((s, microbatch), {}), self._bytes(value, s)
            self._total[s] += size - held.get(value, 0)
            held[value] = size

    def _bytes(self, value: int, stage: int) -> int:
        if (value, stage) not in self._sizes:
            spec = self._low[stage].spec(value) if value in self._made[stage] else self._code.spec(value, stage)
            self._sizes[value, stage] = shard_bytes(self._graph.values[value], spec,
                                                    self._record.stages[stage].mesh_shape)
        return self._sizes[value, stage]

    def _call(self, name: str, stage: int, extra: int = 0) -> None:
        need, held = self._needs(name, stage), [t + o for t, o in zip(self._total, self._outputs, strict=True)]
        beside = tuple((s, held[s], self._grads[s]) for s in self._mates[stage])
        self.calls.append(Call(stage, name, held[stage] + extra, self._grads[stage], need.temp, need.made, need.op,
                               beside))

    def update(self) -> None:
        """The weight update: everything that a task makes is kept to the end of it."""
        graph = self._emitted.program.update
        assert graph is not None
        visiting = [visiting_bytes(self._record, graph, s) for s in range(len(self._outputs))]
        for n, task in enumerate(self._emitted.update_codes):
            self._call(f"{UPDATE}{n}", task.stage, visiting[task.stage] if task.part else 0)
            self._outputs[task.stage] += self._needs(f"{UPDATE}{n}", task.stage).made
