"""Bytes on each device of a rank while it runs the tasks of its stages: the moment at which it holds most.

In: what every stage of the rank holds per microbatch, and the moments of a schedule (`schedules/counting.py`). Out: the
peak, and the moment it is reached at.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from planner.intraop.slice_choice import SliceChoice
from planner.schedules.counting import Moment


@dataclass(frozen=True)
class Held:
    """One stage, in bytes on each of its devices: what stays, of a microbatch in flight, of one that waits for its
    weight gradient, what the largest layer works with, what combining gradients takes."""

    resident: float
    in_flight: float
    waiting: float
    working: float
    sync: float


@dataclass(frozen=True)
class Peak:
    """The most bytes of a rank, and the moment."""

    bytes: float
    moment: Moment


def held(choice: SliceChoice, waiting_bytes: float) -> Held:
    """What a stage with that choice holds."""
    return Held(choice.parts[3], choice.parts[4], waiting_bytes, choice.working_bytes, choice.parts[5])


def rank_peak(stages: Sequence[Held], moments: Sequence[Moment]) -> Peak:
    """See the module. As in `SliceTable.memory_bytes`, for all stages of a rank together."""
    at = max(moments, key=lambda m: _kept(stages, m))
    kept = _kept(stages, at) + max(s.working for s in stages)
    return Peak(sum(s.resident for s in stages) + max(kept, sum(s.sync for s in stages)), at)


def _kept(stages: Sequence[Held], moment: Moment) -> float:
    return sum(n * s.in_flight + w * s.waiting
               for s, n, w in zip(stages, moment.in_flight, moment.waiting, strict=True))
