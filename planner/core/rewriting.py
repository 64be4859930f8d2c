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
