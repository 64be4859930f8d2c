"""A plan of several stages: one driver starts every stage's tasks in timetable order and never waits for a result.

Activations and cotangents go to the stages that read them as soon as they are made, in the sharding wanted there.
Parameters that several stages read are sent once a step; their gradients are added up at home. State made by one
microbatch is handed to the next.

In: a plan, its program, placement. Out: `PipelineStep`, a step as `compile_plan` tells.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from planner.core.graph import Program, Role
from planner.core.plan import ParamPlan, PlanRecord
from planner.emit.deferred import final_spec
from planner.emit.meshes import sharding
from planner.emit.pipeline_code import PipelineCode
from planner.emit.task_order import task_order
from planner.model import Model
from planner.runtime.batches import batch_leaves, checked_batch, combined, combined_loss, examples_of
from planner.runtime.placement import Placement, update_graph
from planner.runtime.stage_functions import Scale, StageFunctions
from planner.runtime.staged import StagedFunction
from planner.runtime.state import RunState
from planner.runtime.transfer import Transfers
from planner.schedules import Task

Held = dict[tuple[int, int], dict[int, Any]]
"""(stage, microbatch) -> value -> array that the stage's tasks of that microbatch still need."""


@dataclass(frozen=True)
class PipelineParts:
    """The compiled parts of a pipeline: functions per stage, and the weight update (None without training)."""

    code: PipelineCode
    stages: tuple[StageFunctions, ...]
    update: StagedFunction | None


class PipelineStep:
    """The step of a plan of several stages: `(RunState, batch) -> ...`, see `compile_plan`. `warnings` says what is not
    run as planned."""

    def __init__(self, record: PlanRecord, model: Model, program: Program, code: PipelineCode, placed: Placement,
                 aux_tree: Any, warnings: tuple[str, ...] = ()) -> None:
        self.warnings = warnings
        self._record, self._model, self._code, self._placed, self._aux_tree = record, model, code, placed, aux_tree
        self._leaves = batch_leaves(model, record.microbatches)
        divisor = record.microbatches if model.loss_reduction == "mean" else 1
        self._stages = [StageFunctions(code, s.index, placed.meshes[s.index], Scale(divisor)) for s in record.stages]
        self._order = task_order(record, code)
        self._transfers = Transfers(placed.meshes)
        self._update = StagedFunction(update_graph(record, program), placed.meshes, self._transfers) \
            if program.update else None
        self._add = jax.jit(lambda parts: sum(parts[1:], parts[0]))
        self._combine = jax.jit(self._combined)

    @property
    def parts(self) -> PipelineParts:
        """What the step drives, for those who look into it."""
        return PipelineParts(self._code, tuple(self._stages), self._update)

    def __call__(self, state: RunState, batch: Any) -> Any:
        """One step. Training takes over the buffers of `state`."""
        run = _Run(self._code, self._placed, self._stages, self._transfers)
        run.give_parameters(state.param_leaves)
        run.give_batch(self._leaves, checked_batch(self._leaves, batch), self._record.microbatches)
        run.give_state(state.state_leaves)
        for task in self._order:
            run.do(task)
        new_state = run.last_state(self._record.microbatches - 1)
        outputs = self._outputs(run)
        if self._record.kind != "train":
            new = RunState(state.param_leaves, (), new_state, state.layout)
            return outputs["aux"] if self._model.state is None else (outputs["aux"], new)
        params, opt = self._updated(state, run)
        return RunState(params, opt, new_state, state.layout), outputs

    def _outputs(self, run: "_Run") -> dict[str, Any]:
        graph, found = self._code.given.graph, {}
        for stage, outputs in run.outputs.items():
            for (v, m), x in outputs.items():
                found.setdefault(stage, {}).setdefault(v, {})[m] = x
        ends: dict[int, Any] = {}
        roles = {o.operand: o.role for o in graph.outputs if isinstance(o.operand, int)}
        for by_value in found.values():
            losses = {v: _listed(x) for v, x in by_value.items() if roles[v] is Role.LOSS}
            others = {v: _listed(x) for v, x in by_value.items() if roles[v] is not Role.LOSS}
            ends |= self._combine(losses, others)
        aux = [ends[o.operand] for o in graph.outputs_of(Role.AUX) if isinstance(o.operand, int)]
        result = {"aux": jax.tree_util.tree_unflatten(self._aux_tree, aux)}
        for out in graph.outputs_of(Role.LOSS):
            if isinstance(out.operand, int):
                result = {"loss": ends[out.operand], **result}
        return result

    def _combined(self, losses: dict[int, list[Any]], others: dict[int, list[Any]]) -> dict[int, Any]:
        m = self._record.microbatches
        if m == 1:
            return {v: xs[0] for v, xs in (losses | others).items()}
        found = {v: combined_loss(jnp.stack(xs), self._model.loss_reduction) for v, xs in losses.items()}
        return found | {v: combined(jnp.stack(xs), examples_of(self._leaves, m)) for v, xs in others.items()}

    def _updated(self, state: RunState, run: "_Run") -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        assert self._update is not None
        parts: dict[int, list[Any]] = {}
        for stage, functions in enumerate(self._stages):
            for (p, _), grad in zip(self._code.grads[stage], functions.finish(run.sums[stage]), strict=True):
                parts.setdefault(p.value, []).append(grad if stage == p.home else self._home(p, stage, grad))
        grads = [parts[p.value][0] if len(parts[p.value]) == 1 else self._add(parts[p.value])
                 for p in self._record.params]
        ends = self._update((*state.param_leaves, *state.opt_leaves, *grads))
        count = len(state.param_leaves)
        return tuple(ends[:count]), tuple(ends[count:])

    def _home(self, param: ParamPlan, stage: int, grad: Any) -> Any:
        """A gradient that another stage than the parameter's own has summed, at home."""
        lies = sharding(self._placed.meshes[stage], final_spec(self._code.given, param, stage))
        home = sharding(self._placed.meshes[param.home], param.update_spec)
        return self._transfers.send([grad], [lies], [home])[0]


class _Run:
    """One step under way: what every stage holds for every microbatch."""

    def __init__(self, code: PipelineCode, placed: Placement, stages: Sequence[StageFunctions], transfers: Transfers
                 ) -> None:
        self._code, self._placed, self._stages, self._transfers = code, placed, stages, transfers
        self._later = {(s, kind): code.read_after(s, kind) for s in range(len(stages)) for kind in code.kinds}
        self._fixed: list[dict[int, Any]] = [{} for _ in stages]
        self._held: Held = {}
        self.sums = [f.zeros() if code.grads[s] else () for s, f in enumerate(stages)]
        self.outputs: dict[int, dict[tuple[int, int], Any]] = {s: {} for s in range(len(stages))}
        graph = code.given.graph
        self._kept = {o.operand for o in graph.outputs if o.role in (Role.LOSS, Role.AUX)}
        self._next = {new: old for old, new in code.state_successor.items()}
        self._made_state: dict[tuple[int, int], tuple[Any, NamedSharding]] = {}

    def give_parameters(self, leaves: Sequence[Any]) -> None:
        """Parameters, and copies of them, to the stages that read them; constants too."""
        graph, homes = self._code.given.graph, self._placed.shardings(self._placed.params)
        given = {i.value: (x, home) for i, x, home in zip(graph.inputs_of(Role.PARAM), leaves, homes, strict=True)}
        constants = dict(graph.constants)
        for stage in range(len(self._stages)):
            wanted = self._code.reads_on(stage, Role.PARAM)
            moved = self._transfers.send([given[v][0] for v in wanted], [given[v][1] for v in wanted],
                                         [self._lies(v, stage) for v in wanted])
            self._fixed[stage] = dict(zip(wanted, moved, strict=True)) | self._brought(
                stage, {v: constants[v] for v in self._code.reads_on(stage, Role.CONST)})

    def give_batch(self, leaves: Sequence[Any], batch: Sequence[Any], microbatches: int) -> None:
        """Every microbatch of the batch to the stages that read it."""
        inputs = tuple(self._code.given.graph.inputs_of(Role.BATCH))
        for stage in range(len(self._stages)):
            wanted = set(self._code.reads_on(stage, Role.BATCH))
            mine = [(i.value, leaf, x) for i, leaf, x in zip(inputs, leaves, batch, strict=True) if i.value in wanted]
            self._fixed[stage] |= self._brought(stage, {v: x for v, leaf, x in mine if not leaf.split})
            for m in range(microbatches):
                parts = {v: _part(x, m, microbatches) for v, leaf, x in mine if leaf.split}
                self._held.setdefault((stage, m), {}).update(self._brought(stage, parts))

    def give_state(self, leaves: Sequence[Any]) -> None:
        """The state before the first microbatch."""
        lie = self._placed.shardings(self._placed.state)
        for leaf, x, lies in zip(self._code.given.graph.inputs_of(Role.STATE), leaves, lie, strict=True):
            self._hand_state(leaf.value, x, lies, 0)

    def do(self, task: Task) -> None:
        """Start one task, and send on what it makes."""
        functions, key, kind = self._stages[task.stage], (task.stage, task.microbatch), task.phase
        held, later = self._held.setdefault(key, {}), self._later[task.stage, kind]
        code, program = functions.codes[kind], functions.programs[kind]
        reads = [held[v] if v in held else self._fixed[task.stage][v] for v in code.reads]
        if kind is functions.summing:
            self.sums[task.stage], made = program(self.sums[task.stage], *reads)
        else:
            made = program(*reads) if code.makes else ()  # the first stage may have no input gradient
        self._held[key] = {v: x for v, x in held.items() if v in later}
        self._send(task, dict(zip(code.makes, made, strict=True)))

    def last_state(self, microbatch: int) -> tuple[Any, ...]:
        """The state after a microbatch, at home."""
        found = [self._made_state[self._code.state_successor[i.value], microbatch]
                 for i in self._code.given.graph.inputs_of(Role.STATE)]
        return tuple(self._transfers.send([x], [lies], [home])[0] for (x, lies), home in
                     zip(found, self._placed.shardings(self._placed.state), strict=True))

    def _send(self, task: Task, made: dict[int, Any]) -> None:
        for v, x in made.items():
            if v in self._kept:
                self.outputs[task.stage][v, task.microbatch] = x
            if v in self._next:
                self._made_state[v, task.microbatch] = (x, self._lies(v, task.stage))
                self._hand_state(self._next[v], x, self._lies(v, task.stage), task.microbatch + 1)
        for stage in {s for v in made for s in self._code.readers.get(v, ())}:
            mine = {v: x for v, x in made.items() if stage in self._code.readers.get(v, ())}
            if stage == task.stage:
                held = {v: x for v, x in mine.items() if v in self._later[stage, task.phase]}
            else:
                held = self._sent(task.stage, stage, mine)
            if held:
                self._held.setdefault((stage, task.microbatch), {}).update(held)

    def _hand_state(self, value: int, array: Any, lies: NamedSharding, microbatch: int) -> None:
        for stage in self._code.readers.get(value, ()):
            moved = self._transfers.send([array], [lies], [self._lies(value, stage)])
            self._held.setdefault((stage, microbatch), {})[value] = moved[0]

    def _sent(self, source: int, stage: int, arrays: dict[int, Any]) -> dict[int, Any]:
        moved = self._transfers.send(list(arrays.values()), [self._lies(v, source) for v in arrays],
                                     [self._lies(v, stage) for v in arrays])
        return dict(zip(arrays, moved, strict=True))

    def _brought(self, stage: int, arrays: dict[int, Any]) -> dict[int, Any]:
        moved = self._transfers.place(list(arrays.values()), [self._lies(v, stage) for v in arrays])
        return dict(zip(arrays, moved, strict=True))

    def _lies(self, value: int, stage: int) -> NamedSharding:
        return sharding(self._placed.meshes[stage], self._code.spec(value, stage))


def _part(array: Any, microbatch: int, microbatches: int) -> Any:
    size = array.shape[0] // microbatches
    return array[microbatch * size:(microbatch + 1) * size]


def _listed(by_microbatch: dict[int, Any]) -> list[Any]:
    return [by_microbatch[m] for m in sorted(by_microbatch)]
