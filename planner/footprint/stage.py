"""What the devices of each stage hold over a step, and when most: the memory curve of a plan.

A plan of one stage is one compiled function: its arguments, and what it holds beside them while it runs. A pipeline's
driver keeps arrays between calls (`runtime/pipeline.py`): every microbatch of the batch from the beginning, what the
backward of a microbatch in flight will read, gradient sums to the end of the step; each call adds what it needs and
makes.

In: a `PlanRecord` and its `Program`. Out: a `MemoryCurve` per stage.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from planner.core.graph import Program, Role
from planner.core.plan import DEVICE, HOST, MemoryParts, PlanRecord
from planner.costs.memory import peak, shard_bytes, value_bytes
from planner.emit.payloads import InMemory
from planner.footprint.driver import Call, walk, walk_update
from planner.footprint.emitted import Emitted, Function, Holds
from planner.footprint.functions import step_function


@dataclass(frozen=True)
class MemoryCurve:
    """Bytes of one device of a stage over a step: its own part, where the device works for several stages.

    Attributes:
      stage: the stage.
      ops: per moment, the operator of the emitted graph that runs (-1: none of the model's own).
      params_bytes, opt_state_bytes: held throughout.
      grads, activations, transient: bytes per moment. Batch inputs are counted with the activations.
      peak_at: the moment at which most is held on the device.
      extra_bytes: what an allocation that holds everything takes beyond that.
      host_bytes: in the memory of the device's host, throughout.
    """

    stage: int
    ops: tuple[int, ...]
    params_bytes: int
    opt_state_bytes: int
    grads: tuple[int, ...]
    activations: tuple[int, ...]
    transient: tuple[int, ...]
    peak_at: int
    extra_bytes: int
    host_bytes: int = 0

    @property
    def totals(self) -> tuple[int, ...]:
        """Bytes per moment, all kinds."""
        fixed = self.params_bytes + self.opt_state_bytes
        return tuple(fixed + g + a + t for g, a, t in zip(self.grads, self.activations, self.transient, strict=True))

    @property
    def parts(self) -> MemoryParts:
        """The peak, by kind."""
        at = self.peak_at
        return MemoryParts(self.params_bytes, self.opt_state_bytes, self.grads[at], self.activations[at],
                           self.transient[at] + self.extra_bytes, self.host_bytes)


@dataclass(frozen=True)
class Arguments:
    """Bytes of what a stage's devices hold throughout a step: parameters, state and constants; optimizer state; its
    part of the batch; and optimizer state in the memory of the device's host."""

    params: int
    opt_state: int
    batch: int
    host: int = 0


def memory_curves(record: PlanRecord, program: Program, emitted: Emitted | None = None) -> tuple[MemoryCurve, ...]:
    """The memory of every stage of a plan over one step. `emitted`: the program under a plan that differs in what lies
    in host memory alone."""
    emitted = emitted.told(record) if emitted else Emitted(record, program)
    if len(record.stages) == 1:
        given = arguments(emitted, 0)
        curve = _then(given, step_function(emitted, updates=False), walk_update(emitted)) if given.host else \
            _of_step(given, step_function(emitted))
        return (replace(curve, host_bytes=given.host + _copied(emitted)),)
    walked = walk(emitted)
    layout, given = record.layout, [arguments(emitted, s.index) for s in record.stages]
    found: dict[int, MemoryCurve] = {}
    for rank in range(layout.ranks):
        stages = layout.stages_of(rank)
        found |= _of_rank([c for c in walked.calls if c.stage in stages], {s: given[s] for s in stages})
    return tuple(replace(found[s], host_bytes=given[s].host + walked.host[s]) for s in range(len(record.stages)))


def arguments(emitted: Emitted, stage: int) -> Arguments:
    """What a stage holds throughout."""
    record, graph, mesh = emitted.record, emitted.given.graph, emitted.record.stages[stage].mesh_shape
    low = emitted.lowering(stage)
    read = set(emitted.read[stage])
    if record.kind == "train":
        homes = {p.value: p.home for p in record.params}
        read |= {v for v, home in homes.items() if home == stage}
    if len(record.stages) == 1:
        read = {i.value for i in graph.inputs} | read
    size = {i.value: shard_bytes(graph.values[i.value], low.spec(i.value), mesh) for i in graph.inputs}
    here = read - _there_already(record, emitted, stage)
    kept = sum(size[i.value] for i in graph.inputs if i.value in here and i.role is not Role.BATCH)
    constants = sum(value_bytes(graph.values[v]) for v, _ in graph.constants if v in read)
    batch = sum(size[i.value] * (record.microbatches if emitted.is_split(i.value) else 1)
                for i in graph.inputs_of(Role.BATCH) if i.value in read)
    return Arguments(kept + constants, _opt_state(emitted, stage, DEVICE), batch, _opt_state(emitted, stage, HOST))


def _copied(emitted: Emitted) -> int:
    """Activations that the program of a plan of one stage copies to the host, of one microbatch."""
    graph, low, mesh = emitted.given.graph, emitted.lowering(0), emitted.record.stages[0].mesh_shape
    return sum(shard_bytes(graph.values[v], low.spec(v), mesh) for op in graph.ops
               if isinstance(op.payload, InMemory) and op.payload.memory == HOST for v in op.results)


def _there_already(record: PlanRecord, emitted: Emitted, stage: int) -> set[int]:
    """Parameters that another stage of the same devices holds as this one reads them: no copy is made."""
    layout, specs = record.layout, emitted.given.specs
    return {p.value for p in record.params
            if p.home != stage and layout.rank_of[p.home] == layout.rank_of[stage]
            and record.stages[p.home].mesh_shape == record.stages[stage].mesh_shape
            and specs[p.home].get(p.value) == specs[stage].get(p.value)}


def _opt_state(emitted: Emitted, stage: int, memory: str) -> int:
    update = emitted.program.update
    if update is None:
        return 0
    leaves = tuple(update.inputs_of(Role.OPT_STATE))
    mesh = emitted.record.stages[stage].mesh_shape
    return sum(shard_bytes(update.values[leaf.value], place.spec, mesh)
               for leaf, place in zip(leaves, emitted.opt_state_places, strict=True)
               if place.home == stage and place.memory == memory)


def _of_step(given: Arguments, function: Function) -> MemoryCurve:
    """The curve of a step that is one function."""
    length = len(function.ops)
    change = {kind: [0] * (length + 1) for kind in Holds}
    for live, kind in zip(function.held, function.kinds, strict=True):
        change[kind][live.start] += live.bytes
        change[kind][min(live.end, length)] -= live.bytes
    held = {kind: _running(values)[:length] for kind, values in change.items()}
    most, at = peak(function.held)
    fixed = given.batch
    return MemoryCurve(0, function.ops, given.params, given.opt_state, tuple(held[Holds.GRADS]),
                       tuple(fixed + a for a in held[Holds.ACTIVATIONS]),
                       tuple(t + function.out_bytes for t in held[Holds.TRANSIENT]), min(at, max(length - 1, 0)),
                       function.temp_bytes - most, given.host)


def _then(given: Arguments, function: Function, calls: Sequence[Call]) -> MemoryCurve:
    """The curve of a step that gives back gradients, and of the weight update after it, a moment per call."""
    step = _of_step(given, function)
    grads = sum(live.bytes for live, kind in zip(function.held, function.kinds, strict=True)
                if kind is Holds.GRADS and live.end >= len(function.ops))
    held = MemoryCurve(step.stage, (*step.ops, *(c.op for c in calls)), step.params_bytes, step.opt_state_bytes,
                       (*step.grads, *(grads for _ in calls)), (*step.activations, *(given.batch for _ in calls)),
                       (*step.transient, *(function.out_bytes + c.held + c.temp + c.made for c in calls)), 0, 0,
                       step.host_bytes)
    first = step.totals[step.peak_at] + step.extra_bytes
    last = max(range(len(step.ops), len(held.ops)), key=held.totals.__getitem__)
    if held.totals[last] > first:
        return replace(held, peak_at=last)
    return replace(held, peak_at=step.peak_at, extra_bytes=step.extra_bytes)


def _running(changes: Sequence[int]) -> list[int]:
    total, found = 0, []
    for c in changes:
        total += c
        found.append(total)
    return found


def _of_rank(calls: Sequence[Call], given: Mapping[int, Arguments]) -> dict[int, MemoryCurve]:
    """The curves of the stages of one rank: a moment per call of any of them."""
    held = {s: [a.batch + _of(c, s)[0] for c in calls] for s, a in given.items()}
    grads = {s: [_of(c, s)[1] for c in calls] for s in given}
    work = {s: [c.temp + c.made if c.stage == s else 0 for c in calls] for s in given}
    totals = [sum(of[s][n] for of in (held, grads, work) for s in given) for n in range(len(calls))]
    at = max(range(len(totals)), key=totals.__getitem__)
    return {s: MemoryCurve(s, tuple(c.op if c.stage == s else -1 for c in calls), a.params, a.opt_state,
                           tuple(grads[s]), tuple(held[s]), tuple(work[s]), at, 0, a.host)
            for s, a in given.items()}


def _of(call: Call, stage: int) -> tuple[int, int]:
    """What a stage holds during a call, and its gradients."""
    if call.stage == stage:
        return call.held, call.grads
    return next((held, grads) for s, held, grads in call.beside if s == stage)
