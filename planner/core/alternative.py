"""What a plan would cost otherwise, as the search that made it saw it; part of a plan's record.

In: `planner/alternatives.py`. Out: explanations.
"""

from dataclasses import dataclass

REWRITE = "rewrite"
"""What an alternative is about that rewrites the graph; its time is that of the plan with what it would add."""

WITHOUT = "without rewrites"
"""What the plan of a model as it was written is called beside the one of the model rewritten."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """The best that a search saw where something was chosen otherwise; what it saw least of may be far from the best.

    Attributes:
      about: what is other: `"microbatches"`, `"stages"`, `"mesh"`, or `REWRITE`.
      choice: how, in words: `"128 microbatches"`, `"mesh x=8 for stage 1"`.
      step_time_s, peak_bytes: as in `ScheduleCost`; None where nothing fits.
      missing_bytes: where nothing fits, how much less memory the least would have to take.
      note: what else differs.
    """

    about: str
    choice: str
    step_time_s: float | None
    peak_bytes: int | None
    missing_bytes: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Baseline:
    """A standard recipe priced by the same cost code; `note` says why it is missing or does not fit."""

    name: str
    step_time_s: float | None
    peak_bytes: int | None
    fits: bool
    note: str = ""


@dataclass(frozen=True, slots=True)
class ScheduleCost:
    """The best pipeline found under one schedule: seconds of a step, share of time in which devices wait, peak bytes as
    the sum of what layers hold; None where none was priced. `note` says which it is, or why there is none."""

    name: str
    step_time_s: float | None
    bubble: float
    peak_bytes: int | None
    fits: bool
    note: str = ""
