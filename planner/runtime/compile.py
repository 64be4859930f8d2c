"""From a plan, its model and devices to a step that runs.

In: a `PlanRecord`, the `Model` it was made for, devices. Out: `(step, state)`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax

from planner.core.graph import Program
from planner.core.plan import HOST, PlanRecord, uses_host_memory
from planner.core.replicas import devices_of
from planner.emit.annotated import Annotated
from planner.emit.match import matching_devices, matching_program
from planner.emit.meshes import stage_mesh
from planner.emit.pipeline_code import pipeline_code
from planner.emit.rewritten import rewritten as rewritten
from planner.errors import PlanMismatchError
from planner.model import Model
from planner.runtime.pipeline import PipelineStep
from planner.runtime.placement import Placement, check_concrete, initial_state, place
from planner.runtime.replicated import Replica, ReplicatedStep, model_of_share
from planner.runtime.room import tight_devices
from planner.runtime.single import SingleStage, SingleStep
from planner.runtime.state import RunState
from planner.runtime.together import check_processes
from planner.trace import program_trees
from planner.trace.jaxpr import abstract_tree

Step = Callable[[RunState, Any], Any]


def compile_plan(record: PlanRecord, model: Model, devices: Sequence[jax.Device], *, params: Any = None,
                 state: Any = None) -> tuple[Step, RunState]:
    """Make a plan run.

    Args:
      record: the plan.
      model: the model it was made for, with concrete parameters and state.
      devices: as many as the plan is for, in the order of the mesh.
      params: parameters instead of `model.params`.
      state: state instead of `model.state`.

    Returns:
      The step and the first state. The step is, by kind of model:
      train: `step(state, batch) -> (state, {"loss": ..., "aux": ...})`;
      inference: `step(state, batch) -> outputs`, or `(outputs, state)` if the model has state;
      step: `step(state, batch) -> (state, metrics)`, the user's own metrics.
      A training step takes over the buffers of the state it is given.

    Raises:
      PlanMismatchError: another model or another number of devices.
      ModelError: parameters or state are abstract and none are given.
    """
    devices = matching_devices(record, devices)
    check_processes(record, devices)
    model = replace(model, params=model.params if params is None else params,
                    state=model.state if state is None else state)
    check_concrete(model)
    shapes = replace(model, params=abstract_tree(model.params, "parameter"), state=abstract_tree(model.state, "state"))
    built = build_step(record, shapes, devices)  # a step that knew the first numbers would keep them in memory
    first = record.replicas[0] if record.replicas else record
    return built.step, built.ready(initial_state(first, model, built.program, built.placed))


@dataclass(frozen=True)
class Built:
    """A step before it has any numbers: what it was made of, for those who look into it; of several replicas, what the
    first was made of."""

    step: SingleStep | PipelineStep | ReplicatedStep
    program: Program
    given: Annotated
    placed: Placement

    def ready(self, state: RunState) -> RunState:
        """A state as the step takes it: with copies for other replicas."""
        return self.step.spread(state) if isinstance(self.step, ReplicatedStep) else state


def _check_host_memory(record: PlanRecord, devices: Sequence[Any]) -> None:
    """Refuse a plan that keeps something in host memory that the devices can't reach. Those of a topology that is not
    there may not say what they reach."""
    if not uses_host_memory(record):
        return
    for device in devices:
        kinds = {m.kind for m in device.addressable_memories()} if device.process_index == jax.process_index() else ()
        if kinds and HOST not in kinds:
            raise PlanMismatchError(f"the plan keeps optimizer state or activations in the host's memory ({HOST!r}), "
                                    f"which {device} can't reach: it knows {', '.join(sorted(kinds))}",
                                    'plan again with offload="none"')


def build_step(record: PlanRecord, model: Model, devices: Sequence[Any], *, apart: bool = False) -> Built:
    """The step of a plan, without its first state: the model may be abstract, and the devices need not run. `apart`:
    its update is apart from what makes gradients, as in replicas.

    Raises:
      PlanMismatchError: another model or another number of devices.
    """
    devices = matching_devices(record, devices)
    if record.replicas:
        return _replicated(record, model, devices)
    _check_host_memory(record, devices)
    program = matching_program(record, model)
    given, warnings = rewritten(record, program)
    warnings += tight_devices(record, devices)
    placed = place(record, model, program, given, [stage_mesh(s, devices) for s in record.stages])
    aux_tree = program_trees(model, record.microbatches).aux
    if len(record.stages) == 1:
        warnings += _kept_activations(record, devices)
        single = SingleStage(record, model, program, given, placed, aux_tree, warnings, apart)
        return Built(SingleStep(single), program, given, placed)
    code = pipeline_code(record, given)
    return Built(PipelineStep(record, model, program, code, placed, aux_tree, warnings), program, given, placed)


def _replicated(record: PlanRecord, model: Model, devices: Sequence[Any]) -> Built:
    """The step of several replicas."""
    parts = [build_step(r, model_of_share(record, model, n), [devices[d] for d in devices_of(record, n)], apart=True)
             for n, r in enumerate(record.replicas)]
    replicas = [Replica(r, b.step, b.placed) for r, b in zip(record.replicas, parts, strict=True)
                if not isinstance(b.step, ReplicatedStep)]
    step = ReplicatedStep(record, model, replicas, program_trees(model, record.microbatches).aux)
    return Built(step, parts[0].program, parts[0].given, parts[0].placed)


def _kept_activations(record: PlanRecord, devices: Sequence[Any]) -> tuple[str, ...]:
    """Refuse what a plan of one stage can't do with activations on hosts, or say what it does not.

    Raises:
      PlanMismatchError: on GPUs.
    """
    if not record.stages[0].offload:
        return ()
    if devices[0].platform in ("gpu", "cuda"):
        raise PlanMismatchError("the plan's only stage keeps activations in host memory, which takes more memory on "
                                "GPUs, not less: XLA fetches them all at once", "plan again with more stages")
    return ("activations stay where they are: XLA on CPU drops copies to host memory within one program",) \
        if devices[0].platform == "cpu" else ()
