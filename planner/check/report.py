"""What a check found: one entry per tensor, and how it was judged.

The error of a tensor is its largest difference from the single-device run, over the largest magnitude there (for
parameters and state: root mean squares, over the *change* since the start, so that a missing update cannot hide behind
large weights). It passes below a tolerance of its dtype, or where the same model on one device moves as much when its
parameters are perturbed by a rounding error: a bias before a batch norm has no gradient but rounding noise, which Adam
turns into steps. In half precision it passes as well where it is within the tolerance of the same model with sums made
in float32, or no further from them than plain JAX is.
"""

import math
from dataclasses import dataclass

NOISE_FACTOR = 8.0
"""How many times the error that rounding alone causes is accepted. Another order of summation over 8 devices and 8
microbatches perturbs more than one rounding; a wrong plan is off by orders of magnitude."""


@dataclass(frozen=True, slots=True)
class TensorCheck:
    """One tensor.

    Attributes:
      what: `"loss"`, `"gradient"`, `"parameter"`, `"optimizer"`, `"state"` or `"output"`.
      name: its path; for losses the step.
      error: worst relative error over the steps compared; infinite for NaN on one side.
      tolerance: of its dtype.
      noise: relative error that a rounding error in the parameters causes on one device.
      wide_error: error beside plain JAX with its sums in float32; infinite where that was not looked at.
      plain_error: the error of plain JAX itself beside that.
    """

    what: str
    name: str
    error: float
    tolerance: float
    noise: float
    wide_error: float = math.inf
    plain_error: float = 0.0

    @property
    def allowed(self) -> float:
        """The largest error that passes."""
        return max(self.tolerance, NOISE_FACTOR * self.noise)

    @property
    def nearest(self) -> float:
        """The error beside plain JAX, or that beside wide sums if it is smaller."""
        return min(self.error, self.wide_error)

    @property
    def passed(self) -> bool:
        """Whether the error is allowed."""
        return self.error <= self.allowed or self.wide_error <= max(self.tolerance, self.plain_error)


@dataclass(frozen=True)
class CheckReport:
    """All tensors, and the losses of both runs side by side (empty for inference)."""

    tensors: tuple[TensorCheck, ...]
    steps: int
    losses: tuple[tuple[float, float], ...]  # (planned, single device)

    @property
    def passed(self) -> bool:
        """Whether every tensor passed."""
        return all(t.passed for t in self.tensors)

    @property
    def failures(self) -> tuple[TensorCheck, ...]:
        """The tensors that did not, worst first."""
        return tuple(sorted((t for t in self.tensors if not t.passed), key=lambda t: -t.error))

    def worst(self, what: str) -> float:
        """The worst error of one kind of tensor."""
        return max((t.nearest for t in self.tensors if t.what == what), default=0.0)

    def __str__(self) -> str:
        kinds = tuple(dict.fromkeys(t.what for t in self.tensors))
        counts = ", ".join(f"{sum(t.what == k for t in self.tensors)} of kind {k} (worst error {self.worst(k):.1e})"
                           for k in kinds)
        lines = [f"{'passed' if self.passed else 'FAILED'} after {self.steps} steps: {counts}"]
        lines += [f"  {t.what} {t.name}: relative error {t.error:.2e}, allowed {t.allowed:.1e}"
                  for t in self.failures[:20]]
        return "\n".join(lines)
