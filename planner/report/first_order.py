"""What would help a plan most, to first order: from the shares of its own step, nothing planned again.

Each is a bound by Amdahl's argument (AFIPS 1967): what a change does not touch takes as long as before. A plan made for
the changed machine may gain more, as it would shard otherwise; `planner explain --what-if` plans again.

In: a `PlanRecord`. Out: changes with the step as it would be, and what is assumed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from planner.core.plan import PlanRecord
from planner.report.causes import COMMUNICATION, WAITING, Cause, crossing, step_causes

WORK_ON_DEVICES = (Cause.COMPUTE, Cause.OPTIMIZER)
"""What faster devices do faster."""


@dataclass(frozen=True)
class Help:
    """A change and what it would do.

    Attributes:
      change: in words.
      step_time_s: of the changed machine or batch, to first order; None where only a bound is known.
      speedup: of samples per second; where `at_most`, no more than this.
      at_most: whether it is a bound rather than an estimate.
      why: what is assumed.
    """

    change: str
    step_time_s: float | None
    speedup: float
    at_most: bool
    why: str


def helps(record: PlanRecord) -> tuple[Help, ...]:
    """What would help, the most helpful first."""
    return tuple(sorted(_helps(record), key=lambda h: -h.speedup))


def recomputed_s(record: PlanRecord) -> float:
    """Seconds of the step on the mean device in forwards that are run a second time whole."""
    again = 0.0
    for stage in record.stages:
        times = dict(zip(range(*stage.layers), stage.layer_times, strict=False))
        mine = sum(times[n].forward_s for n in stage.recompute if n in times)
        again += len(stage.devices) / record.device_count * record.microbatches_of(stage) * mine
    return again


def _helps(record: PlanRecord) -> Iterator[Help]:
    causes, on = step_causes(record), crossing(record)
    trains = record.kind == "train"
    yield _less(record, "devices that compute twice as fast", 0.5 * sum(causes[c] for c in WORK_ON_DEVICES),
                "compute and the optimizer's update halve, links stay")
    if on.between_s:
        yield _less(record, "twice the bandwidth between nodes", 0.5 * on.between_s,
                    "what is communicated between nodes halves, in proportion to bytes")
    if on.inside_s:
        yield _less(record, "twice the bandwidth inside nodes", 0.5 * on.inside_s,
                    "what is communicated inside nodes halves, in proportion to bytes")
    if trains and (memory := recomputed_s(record) + causes[Cause.GATHER] + causes[Cause.HOST]):
        yield _less(record, "more memory", memory, "nothing is recomputed whole, gathered or kept on hosts",
                    at_most=True)
    if trains:
        once = _once_s(record)
        twice = 2 * record.step_time_s - once - causes[Cause.BUBBLE]
        yield Help("a batch twice as large", twice, 2 * record.step_time_s / twice if twice else 1.0, False,
                   "twice the microbatches of the same size: gradients are combined and weights updated as often, and "
                   "the pipeline fills and drains as often, for twice the samples")
    waiting = sum(causes[c] for c in WAITING)
    if waiting:
        yield _less(record, "stages that never wait", waiting, "the bubble and uneven stages are gone", at_most=True)
    communicating = sum(causes[c] for c in COMMUNICATION)
    if communicating:
        yield _less(record, "communication for nothing", communicating, "all of it is hidden or free", at_most=True)


def _less(record: PlanRecord, change: str, saved_s: float, why: str, *, at_most: bool = False) -> Help:
    left = record.step_time_s - saved_s
    return Help(change, left, record.step_time_s / left if left else float("inf"), at_most, why)


def _once_s(record: PlanRecord) -> float:
    """Seconds of the step, on the mean device, in what is done once a step."""
    return sum(len(s.devices) / record.device_count * s.time.batch_s for s in record.stages)
