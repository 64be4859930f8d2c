"""A plan of several stages: one driver starts every stage's tasks in timetable order and never waits for a result.

Parameters that several stages read are sent once a step; their gradients are added up at home, where the optimizer
updates them.

In: a plan, its program, placement. Out: `PipelineStep`, a step as `compile_plan` tells.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from planner.core.graph import Program, Role
from planner.core.plan import ParamPlan, PlanRecord
from planner.emit.deferred import final_spec
from planner.emit.host_memory import host_moves, waiting_values
from planner.emit.meshes import sharding
from planner.emit.pipeline_code import PipelineCode
from planner.emit.task_order import task_order
from planner.model import Model
from planner.runtime.batches import batch_leaves, checked_batch, combined, combined_loss, examples_of
from planner.runtime.driver import Drive, Driver, listed
from planner.runtime.host_transfers import Waiting
from planner.runtime.placement import Placement, update_graph
from planner.runtime.stage_functions import Scale, StageFunctions
from planner.runtime.stage_program import stage_program
from planner.runtime.staged import StagedFunction
from planner.runtime.state import GradientStep, RunState
from planner.runtime.together import Told
from planner.runtime.transfer import Transfers
from planner.schedules import Task


@dataclass(frozen=True)
class PipelineParts:
    """The compiled parts of a pipeline: functions per stage, the tasks of a step in the order they are started, the
    weight update (None without training), and per stage the values that wait for their backward in the host's
    memory."""

    code: PipelineCode
    stages: tuple[StageFunctions, ...]
    order: tuple[Task, ...]
    update: StagedFunction | None
    away: tuple[frozenset[int], ...]


class PipelineStep:
    """The step of a plan of several stages: `(RunState, batch) -> ...`, see `compile_plan`. `warnings` says what is not
    run as planned."""

    def __init__(self, record: PlanRecord, model: Model, program: Program, code: PipelineCode, placed: Placement,
                 aux_tree: Any, warnings: tuple[str, ...] = ()) -> None:
        self.warnings = warnings
        self._record, self._model, self._code, self._placed, self._aux_tree = record, model, code, placed, aux_tree
        self._leaves = batch_leaves(model, record.microbatches)
        self._told = Told(self._step, placed.meshes[0])
        divisor = record.microbatches if model.loss_reduction == "mean" else 1
        self._stages = [StageFunctions(code, s.index, placed.meshes[s.index], Scale(divisor)) for s in record.stages]
        self._order = task_order(record, code)
        self._transfers = Transfers(placed.meshes)
        self._away = waiting_values(record, code)
        self._moves = host_moves(self._order, record.layout, [bool(v) for v in self._away])
        self._update = StagedFunction(update_graph(record, program), placed.meshes, self._transfers) \
            if program.update else None
        self._driver = Driver(code, placed, self._stages, self._transfers, self._leaves)
        self._add = [stage_program(lambda parts: sum(parts[1:], parts[0]), m, "gradient_sum") for m in placed.meshes]
        self._combine = [stage_program(self._combined, m, "outputs") for m in placed.meshes]

    @property
    def parts(self) -> PipelineParts:
        """What the step drives, for those who look into it."""
        return PipelineParts(self._code, tuple(self._stages), self._order, self._update, self._away)

    def __call__(self, state: RunState, batch: Any) -> Any:
        """One step. Training takes over the buffers of `state`."""
        return self._told(state, batch)

    def _step(self, state: RunState, batch: Any) -> Any:
        run, new_state, outputs = self._run(state, batch)
        if self._record.kind != "train":
            new = RunState(state.param_leaves, (), new_state, state.layout)
            return outputs["aux"] if self._model.state is None else (outputs["aux"], new)
        params, opt = self.updated(state, self._gradients(run))
        return RunState(params, opt, new_state, state.layout), outputs

    def gradients(self, state: RunState, batch: Any) -> GradientStep:
        """A step of training up to its update."""
        run, new_state, outputs = self._run(state, batch)
        return GradientStep(self._gradients(run), new_state, outputs)

    def updated(self, state: RunState, grads: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """New parameters and optimizer state. Takes over the buffers of `state`."""
        assert self._update is not None
        ends = self._update((*state.param_leaves, *state.opt_leaves, *grads))
        count = len(state.param_leaves)
        return tuple(ends[:count]), tuple(ends[count:])

    def _run(self, state: RunState, batch: Any) -> tuple[Drive, tuple[Any, ...], dict[str, Any]]:
        waiting = Waiting(self._away, self._moves, self._record.layout) if self._moves else None
        run = Drive(self._driver, self._record.microbatches, waiting)
        run.give(state.param_leaves, checked_batch(self._leaves, batch), state.state_leaves)
        for task in self._order:
            run.do(task)
        return run, run.last_state(), self._outputs(run)

    def _outputs(self, run: Drive) -> dict[str, Any]:
        graph = self._code.given.graph
        ends: dict[int, Any] = {}
        roles = {o.operand: o.role for o in graph.outputs if isinstance(o.operand, int)}
        for stage, by_value in enumerate(run.outputs):
            losses = {v: listed(x) for v, x in by_value.items() if roles[v] is Role.LOSS}
            others = {v: listed(x) for v, x in by_value.items() if roles[v] is not Role.LOSS}
            made = self._combine[stage](losses, others) if by_value else {}
            whole = [NamedSharding(self._placed.meshes[stage], PartitionSpec()) for _ in made]
            ends |= dict(zip(made, self._transfers.everywhere(list(made.values()), whole), strict=True))
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

    def _gradients(self, run: Drive) -> tuple[Any, ...]:
        parts: dict[int, list[Any]] = {}
        for stage, functions in enumerate(self._stages):
            for (p, _), grad in zip(self._code.grads[stage], functions.finish(run.taken_sums(stage)), strict=True):
                parts.setdefault(p.value, []).append(grad if stage == p.home else self._home(p, stage, grad))
        return tuple(parts[p.value][0] if len(parts[p.value]) == 1 else self._add[p.home](parts[p.value])
                     for p in self._record.params)

    def _home(self, param: ParamPlan, stage: int, grad: Any) -> Any:
        """A gradient that another stage than the parameter's own has summed, at home."""
        lies = sharding(self._placed.meshes[stage], final_spec(self._code.given, param, stage))
        home = sharding(self._placed.meshes[param.home], param.update_spec)
        return self._transfers.send([grad], [lies], [home])[0]
