"""Memory of a pipeline stage over a step, from what the compiler says of its programs.

Each program is compiled alone; what lies on the device beside it follows from the schedule: parameters and optimizer
state, the batch, gradient sums, and what microbatches in flight have left for their backward. In: bytes held, programs
by name. Out: the peak. It walks the stage's own list of tasks and knows nothing of how the search counts memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planner.core.plan import PlanRecord
from planner.schedules import Kind, tasks_of
from planner.verify.report import ProgramRow


@dataclass(frozen=True, slots=True)
class Holdings:
    """Bytes of one device of a stage.

    Attributes:
      fixed_bytes: parameters, copies of others' parameters, constants, optimizer state.
      batch_bytes: what one microbatch of the batch takes; all are sent at the start of the step.
      arrives_bytes: activations that come from other stages for one forward.
      kept_bytes: what one microbatch leaves between its forward and its backward.
      cotangent_bytes: what comes from other stages for one backward.
      visiting_bytes: optimizer state from the host that is on the device at once during the weight update.
    """

    fixed_bytes: int
    batch_bytes: int
    arrives_bytes: int
    kept_bytes: int
    cotangent_bytes: int
    visiting_bytes: int = 0


def peak_of_stage(record: PlanRecord, stage: int, held: Holdings, programs: Mapping[str, Sequence[ProgramRow]]
                  ) -> int:
    """The most bytes of a device in use at once."""
    extra = {name: max(p.extra_bytes for p in found) for name, found in programs.items()}
    sums = max((p.output_bytes for p in programs.get("zeros", ())), default=0)
    steady = held.fixed_bytes + sums + held.batch_bytes * record.microbatches
    kept, most = 0, steady
    rank = record.layout.rank_of[stage]
    for task in tasks_of(record.schedule, record.layout, record.microbatches)[rank]:
        if task.phase is Kind.FORWARD:
            most = max(most, steady + kept + held.arrives_bytes + extra["forward"])
            kept += held.kept_bytes if record.kind == "train" else 0
        else:
            most = max(most, steady + kept + held.cotangent_bytes + extra["backward"])
            kept -= held.kept_bytes
    grads = max((p.output_bytes for p in programs.get("finish", ())), default=0)
    update = held.visiting_bytes + of_update(programs.get("update", ()))
    return max(most, steady + grads + max(extra.get("finish", 0) - grads, update))


def of_update(rounds: Sequence[ProgramRow]) -> int:
    """What the weight update takes beside its arguments: the driver keeps what a round makes to the end of the step."""
    kept, most = 0, 0
    for program in rounds:
        most = max(most, kept + program.extra_bytes)
        kept += program.output_bytes - program.alias_bytes
    return most
