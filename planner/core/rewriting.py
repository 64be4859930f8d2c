"""A rewrite as plans keep it: a rule, and the class of places where it is applied."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rewriting:
    """A rule applied at every place of one class, as in every repeat of a layer.

    Attributes:
      rule: its name.
      at: the class: the parameters read there, or the source line (`planner/rewriting/sites.py`).
    """

    rule: str
    at: str

    def __str__(self) -> str:
        return f"{self.rule} at {self.at}"


@dataclass(frozen=True, slots=True)
class AppliedRewrite:
    """One of the rewrites of a plan's program, in the order in which they were applied.

    Attributes:
      rewriting: what was applied where.
      says: what becomes what.
      places: how many places of the class there are.
      gain_s: predicted seconds of a step that it gains over the plan with the rewrites before it, on the meshes of the
        plan without any; negative where it only pays together with later ones, 0 as long as the model does not fit.
      rounding: whether floating-point results may differ in their last bits.
      assumes: what has to be true for the results to be equal, or "".
      frees_bytes: of the bytes that are missing of a device's memory where the model does not fit without, those that
        it makes up for, by the same figures; negative where it is of use to later ones alone.
    """

    rewriting: Rewriting
    says: str
    places: int
    gain_s: float
    rounding: bool
    assumes: str = ""
    frees_bytes: int = 0
