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
      arrives_bytes: per kind of task, what comes from other stages for one.
      kept_bytes: per kind of task, what one leaves for the tasks of the same microbatch that follow it.
      waiting_bytes: of what a forward leaves, what may wait in the host's memory.
      visiting_bytes: optimizer state from the host that is on the device at once during the weight update.
    """

    fixed_bytes: int
    batch_bytes: int
    arrives_bytes: Mapping[Kind, int]
    kept_bytes: Mapping[Kind, int]
    visiting_bytes: int = 0
    waiting_bytes: int = 0


Programs = Mapping[str, Sequence[ProgramRow]]
"""A stage's programs by name."""


def peak_of_rank(record: PlanRecord, rank: int, held: Sequence[Holdings], programs: Sequence[Programs]) -> int:
    """The most bytes of a device in use at once. `held`, `programs`: of every stage of the plan."""
    stages = record.layout.stages_of(rank)
    sums = [_made(found, "zeros") for found in programs]
    steady = sum(held[s].fixed_bytes + sums[s] + held[s].batch_bytes * record.microbatches for s in stages)
    kept, most, left, waiting = 0, steady, dict[tuple[int, int], int](), dict[tuple[int, int], int]()
    for task in tasks_of(record.schedule, record.layout, record.microbatches)[rank]:
        of, key = held[task.stage], (task.stage, task.microbatch)
        extra = max((p.extra_bytes for p in programs[task.stage].get(task.phase, ())), default=0)
        others = [size for other, size in waiting.items() if other != key]
        away = sum(others) - max(others, default=0)  # beside what is worked on, one other is there
        most = max(most, steady + kept - away + of.arrives_bytes[task.phase] + extra)
        kept += of.kept_bytes[task.phase] - left.get(key, 0)
        left[key] = of.kept_bytes[task.phase]
        waiting[key] = of.waiting_bytes if task.phase is Kind.FORWARD else 0
    return max(most, _of_ends(steady, [(held[s], programs[s]) for s in stages]))


def _of_ends(steady: int, stages: Sequence[tuple[Holdings, Programs]]) -> int:
    """The most while gradients are finished, stage by stage, each in the place of its sum or instead of it, and the
    weights updated; what is made stays."""
    at = most = steady
    for _, found in stages:
        extra = max((p.extra_bytes for p in found.get("finish", ())), default=0)
        most, at = max(most, at + extra), at - _made(found, "zeros") + _made(found, "finish")
        most = max(most, at)
    for held, found in stages:
        updated, kept = of_update(found.get("update", ()))
        most, at = max(most, at + held.visiting_bytes + updated), at + kept
    return most


def _made(found: Programs, name: str) -> int:
    """Bytes of all that a program of a stage gives back."""
    return max((p.output_bytes for p in found.get(name, ())), default=0)


def of_update(rounds: Sequence[ProgramRow]) -> tuple[int, int]:
    """What the weight update takes beside its arguments at most, and what is left: the driver keeps what a round makes
    to the end of the step."""
    kept, most = 0, 0
    for program in rounds:
        most = max(most, kept + program.extra_bytes)
        kept += program.output_bytes - program.alias_bytes
    return most, kept
