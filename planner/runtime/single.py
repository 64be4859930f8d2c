"""A plan of one stage as one jitted step: microbatches in a `lax.scan`, gradients accumulated, the update at the end.
With optimizer state in the host's memory the update comes after the jitted step, part by part (`runtime/staged.py`).

In: the annotated program and its placement. Out: steps of the three kinds; see `compile_plan`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from planner.core.graph import Program, Role
from planner.core.plan import HOST, ParamPlan, PlanRecord
from planner.core.programs import STEP, program_name
from planner.core.spec import Spec, replicated
from planner.emit.annotated import Annotated
from planner.emit.contributions import contributions
from planner.emit.deferred import lead_count, settled_spec
from planner.emit.meshes import sharding
from planner.emit.micro import MicroResult, accumulation_dtype, run_micro
from planner.emit.names import gradient_name
from planner.emit.tasks import Constraints, output_array, run_code
from planner.model import Model
from planner.processes.in_turn import in_turn
from planner.runtime.batches import batch_leaves, checked_batch, combined, combined_loss, examples_of, in_microbatches
from planner.runtime.host_transfers import UnderWay
from planner.runtime.placement import Placement, update_graph
from planner.runtime.stage_program import named
from planner.runtime.staged import StagedFunction
from planner.runtime.state import GradientStep, RunState
from planner.runtime.together import Told
from planner.runtime.transfer import Transfers


@dataclass(frozen=True)
class SingleStage:
    """What the step of a one-stage plan is made of."""

    record: PlanRecord
    model: Model
    program: Program
    given: Annotated
    placed: Placement
    aux_tree: Any
    warnings: tuple[str, ...] = ()
    apart: bool = False  # the update is no part of the jitted step, whatever the memory of optimizer state

    @property
    def mesh(self) -> Mesh:
        """The mesh of the stage."""
        return self.placed.meshes[0]

    @property
    def constraints(self) -> Constraints:
        """The plan's constraints on the micro graph."""
        return Constraints(self.mesh, self.given.specs[0], self.given.uses)


class SingleStep:
    """The step of a one-stage plan: `(RunState, batch) -> ...`, see `compile_plan`. `lower` gives it to the compiler
    alone; `update` is what follows it, if anything does; `warnings` says what is not run as planned."""

    def __init__(self, code: SingleStage) -> None:
        self._code, self.warnings = code, code.warnings
        self._leaves = batch_leaves(code.model, code.record.microbatches)
        shardings = _batch_shardings(code)
        self._batch_shardings = [_behind(s) if leaf.split else s
                                 for leaf, s in zip(self._leaves, shardings, strict=True)]
        placed = code.placed
        kept = [placed.shardings(x) for x in (placed.params, placed.opt_state, placed.state)]
        self._transfers = Transfers(placed.meshes)
        in_all = None if self._transfers.one_process else NamedSharding(code.mesh, jax.sharding.PartitionSpec())
        apart = code.apart or any(p.memory == HOST for p in placed.opt_state)
        self.update = StagedFunction(update_graph(code.record, code.program), placed.meshes, self._transfers) \
            if apart else None
        whole = code.record.kind == "train" and not apart
        grads = tuple(sharding(code.mesh, p.update_spec) for p in code.record.params) if apart else None
        self._told = Told(self._step, code.mesh)
        # XLA's CPU client can hang when it is 32 programs ahead, in one process too (`processes/in_turn.py`)
        self._bounded = code.mesh.size > 1 and code.mesh.devices.flat[0].platform == "cpu"
        self._under_way = UnderWay()
        self._jitted = in_turn(jax.jit(
            named(self._run, program_name(0, STEP)),
            in_shardings=(kept[0], kept[1] if not apart else (), kept[2], tuple(self._batch_shardings)),
            donate_argnums=(0, 1, 2) if whole else (2,),
            out_shardings=((kept[0], kept[1]) if whole else grads, kept[2], in_all, in_all)),
            code.mesh, program_name(0, STEP))

    def __call__(self, state: RunState, batch: Any) -> Any:
        """One step. Training donates the buffers of `state`."""
        return self._told(state, batch)

    def _step(self, state: RunState, batch: Any) -> Any:
        updated, own, loss, aux = self._started(state, batch)
        code = self._code
        leaves, opt = self.updated(state, updated) if self.update else updated or (state.param_leaves, ())
        outputs = jax.tree_util.tree_unflatten(code.aux_tree, aux)
        new = RunState(leaves, opt, own, state.layout)
        if code.record.kind == "train":
            return new, {"loss": loss, "aux": outputs}
        return (new, outputs) if code.record.kind == "step" else outputs if code.model.state is None else (outputs, new)

    def gradients(self, state: RunState, batch: Any) -> GradientStep:
        """A step of training up to its update, which is apart."""
        assert self.update is not None
        grads, own, loss, aux = self._started(state, batch)
        return GradientStep(tuple(grads), tuple(own),
                            {"loss": loss, "aux": jax.tree_util.tree_unflatten(self._code.aux_tree, aux)})

    def updated(self, state: RunState, grads: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """New parameters and optimizer state, where the update is apart. Takes over the buffers of `state`."""
        assert self.update is not None
        ends, count = self.update((*state.param_leaves, *state.opt_leaves, *grads)), len(state.param_leaves)
        return tuple(ends[:count]), tuple(ends[count:])

    def lower(self, state: RunState, batch: Any) -> jax.stages.Lowered:
        """The step lowered for compilation, for those who look into it; leaves may be abstract."""
        arrays = [jax.ShapeDtypeStruct(self._shape(leaf), leaf.dtype) for leaf in self._leaves]
        return self._jitted.lower(state.param_leaves, () if self.update else state.opt_leaves, state.state_leaves,
                                  tuple(arrays))

    def _shape(self, leaf: Any) -> tuple[int, ...]:
        m = self._code.record.microbatches
        return (m, leaf.shape[0] // m, *leaf.shape[1:]) if leaf.split else leaf.shape

    def _started(self, state: RunState, batch: Any) -> tuple[Any, ...]:
        """What the jitted step gives; on CPU it is started when the one before it is done."""
        self._under_way.settle(1)
        m = self._code.record.microbatches
        given = [in_microbatches(leaf, x, m) for leaf, x in
                 zip(self._leaves, checked_batch(self._leaves, batch), strict=True)]
        arrays = self._transfers.place(given, self._batch_shardings)
        opt = () if self.update else state.opt_leaves
        updated, own, loss, aux = self._jitted(state.param_leaves, opt, state.state_leaves, tuple(arrays))
        if self._bounded:
            made = jax.tree_util.tree_leaves((updated, own)) or list(state.param_leaves)
            ends = [x for x in (loss, *aux) if x is not None] or jax.block_until_ready(made)
            self._under_way.add([min(ends, key=lambda x: x.size)])
        return updated, own, loss, aux

    def _run(self, params: Sequence[Any], opt: Sequence[Any], state: Sequence[Any], batch: Sequence[Any]) -> Any:
        code = self._code
        grads, new_state, losses, aux = _all_microbatches(code, params, state, batch, [x.split for x in self._leaves])
        if code.record.microbatches > 1:
            examples = examples_of(self._leaves, code.record.microbatches)
            aux = tuple(combined(x, examples) for x in aux)
        if code.record.kind != "train":
            return None, new_state, None, aux
        loss = combined_loss(losses, code.model.loss_reduction) if code.record.microbatches > 1 else losses
        if self.update:
            settled = tuple(finished(code, p, g) for p, g in zip(code.record.params, grads, strict=True))
            return settled, new_state, loss, aux
        return _updated(code, params, opt, grads), new_state, loss, aux


def _all_microbatches(code: SingleStage, params: Sequence[Any], state: Sequence[Any], batch: Sequence[Any],
                      split: Sequence[bool]) -> tuple[tuple[Any, ...], tuple[Any, ...], Any, tuple[Any, ...]]:
    """Gradient sums, new state, loss and other outputs (of one microbatch, or stacked over several)."""
    graph = code.given.graph
    whole = {i.value: x for i, x in zip(graph.inputs_of(Role.PARAM), params, strict=True)} | dict(graph.constants)
    batch_inputs = list(graph.inputs_of(Role.BATCH))
    whole |= {i.value: x for i, x, cut in zip(batch_inputs, batch, split, strict=True) if not cut}

    def micro(state: Sequence[Any], cut: Sequence[Any]) -> MicroResult:
        inputs = whole | {i.value: x for i, x in zip(graph.inputs_of(Role.STATE), state, strict=True)}
        places = [i.value for i, is_cut in zip(batch_inputs, split, strict=True) if is_cut]
        return run_micro(code.given, code.constraints, inputs | dict(zip(places, cut, strict=True)), code.record.params)

    cut = tuple(x for x, is_cut in zip(batch, split, strict=True) if is_cut)
    if code.record.microbatches == 1:
        once = micro(state, cut)
        return once.grads, once.state, once.loss, once.aux

    def body(carry: tuple[Any, Any], part: Sequence[Any]) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        sums, state = carry
        result = micro(state, part)
        grads = tuple(_added(code, p, s, g) for p, s, g in zip(code.record.params, sums, result.grads, strict=True)) \
            if result.grads else ()
        return (grads, result.state), (result.loss, result.aux)

    (grads, state), (losses, aux) = jax.lax.scan(body, (_zero_sums(code), tuple(state)), cut,
                                                 length=code.record.microbatches)
    return grads, tuple(state), losses, aux


def _zero_sums(code: SingleStage) -> tuple[Any, ...]:
    if code.record.kind != "train":
        return ()
    graph = code.given.graph
    found = []
    for p in code.record.params:
        value = graph.values[contributions(graph, p)[0]]
        found.append(_held(code, p, jax.numpy.zeros(value.shape, accumulation_dtype(p.dtype))))
    return tuple(found)


def _added(code: SingleStage, param: ParamPlan, total: Any, grad: Any) -> Any:
    with jax.named_scope(gradient_name(param.path, param.row)):
        return _held(code, param, total + grad)


def _held(code: SingleStage, param: ParamPlan, total: Any) -> Any:
    return code.constraints.constrain(total, settled_spec(code.given, param, 0))


def _updated(code: SingleStage, params: Sequence[Any], opt: Sequence[Any], grads: Sequence[Any]
             ) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    staged = update_graph(code.record, code.program)
    graph = staged.graph
    settled = [finished(code, p, g) for p, g in zip(code.record.params, grads, strict=True)]
    env = {i.value: x for i, x in zip(graph.inputs, (*params, *opt, *settled), strict=True)} | dict(graph.constants)
    run_code(graph, range(len(graph.ops)), env, Constraints(code.mesh, staged.work))
    outs = [output_array(o.operand, env) for o in graph.outputs]
    return tuple(outs[:len(params)]), tuple(outs[len(params):])


def finished(code: SingleStage, param: ParamPlan, total: Any) -> Any:
    """The gradient that the optimizer sees: summed over devices, averaged over microbatches, in the parameter's
    dtype."""
    leads = lead_count(code.given, param, contributions(code.given.graph, param)[0])
    with jax.named_scope(gradient_name(param.path, param.row)):
        total = total.sum(tuple(range(leads))) if leads else total
        total = code.constraints.constrain(total, param.update_spec)
    if code.model.loss_reduction == "mean" and code.record.microbatches > 1:
        total = total / code.record.microbatches
    return total.astype(param.dtype)


def _batch_shardings(code: SingleStage) -> list[NamedSharding]:
    graph = code.given.graph
    specs: list[Spec] = [code.given.specs[0].get(i.value, replicated(len(graph.values[i.value].shape)))
                         for i in graph.inputs_of(Role.BATCH)]
    return [sharding(code.mesh, s) for s in specs]


def _behind(where: NamedSharding) -> NamedSharding:
    """The same, for arrays with the microbatches in front."""
    return NamedSharding(where.mesh, jax.sharding.PartitionSpec(None, *where.spec))
