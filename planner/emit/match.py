"""Whether a plan, a model and devices belong together; the program that the plan was made for.

In: a `PlanRecord`, a `Model`, devices. Out: the re-traced `Program`, or a `PlanMismatchError` with the reason.
"""

from collections.abc import Sequence
from typing import Any

from planner.core.graph import Program
from planner.core.plan import PlanRecord
from planner.core.spec import is_legal
from planner.errors import PlanMismatchError, RewriteError
from planner.model import Model
from planner.rewriting.program import traced_with


def matching_program(record: PlanRecord, model: Model) -> Program:
    """The program of the model, as it was when the plan was made.

    Raises:
      PlanMismatchError: if the model is another, a rewrite of the plan does not apply to it, or a spec of the plan does
        not fit the tensor it is for.
    """
    if model.kind != record.kind:
        raise PlanMismatchError(f"the plan is for {record.kind} of {record.model_name!r}, "
                                f"the model {model.name!r} is for {model.kind}",
                                "use the model that was planned, or plan this one")
    try:
        program = traced_with(model, record.microbatches, record.rewritings)
    except RewriteError as error:
        raise PlanMismatchError(f"the plan rewrites {record.model_name!r}, and {error.what}",
                                "use the model and the library versions of the plan, or plan again") from error
    if program.fingerprint != record.fingerprint:
        raise PlanMismatchError(
            f"the plan was made for a model with fingerprint {record.fingerprint[:12]}, {model.name!r} has "
            f"{program.fingerprint[:12]} (the traced operators or shapes differ)",
            "use the model, batch shape and library versions of the plan, or plan again")
    _check_specs(record, program)
    return program


def matching_devices(record: PlanRecord, devices: Sequence[Any]) -> tuple[Any, ...]:
    """The devices, flat.

    Raises:
      PlanMismatchError: if they are not as many as the plan is for.
    """
    if len(devices) != record.device_count:
        raise PlanMismatchError(f"the plan is for {record.device_count} devices, {len(devices)} are given",
                                "give a mesh of the planned size, or plan for this one")
    return tuple(devices)


def _check_specs(record: PlanRecord, program: Program) -> None:
    values = program.micro.values
    for stage in record.stages:
        for value, spec in stage.specs:
            if not 0 <= value < len(values) or not is_legal(spec, values[value].shape, stage.mesh_shape):
                shape = values[value].shape if 0 <= value < len(values) else None
                raise PlanMismatchError(f"stage {stage.index} shards value {value} of shape {shape} as {spec} over "
                                        f"{stage.mesh_shape}, which does not divide", "the plan was edited; plan again")
