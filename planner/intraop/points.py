"""What a layer of a stage may choose from: the points of its frontiers, priced for that stage.

A point is a row of a frontier between two boundary states. For a stage with k microbatches in flight and B microbatches
a step it costs `step_s` seconds a step, holds `held_bytes` when activations are most, needs `working_bytes` on top
while the layer itself runs, and `sync_bytes` while gradients are combined. A stage's peak is

    max(Σ held + max working, Σ sync),

as in `compose.SliceTable.memory_bytes`, whose residents are in both sums here.

In: `LayerFrontier`s of one layer with equal boundaries, and which of their rows recompute. Out: `Points`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.core.recomputation import Recompute
from planner.intraop.frontier import LayerFrontier
from planner.intraop.variants import Multipliers

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Source:
    """Where a row of `Points` comes from: a row of a frontier, and how it recomputes the layer."""

    frontier: LayerFrontier
    row: int
    recompute: Recompute


@dataclass(frozen=True)
class Points:
    """See the module. Arrays are [row, state before, state after]; `step_s` is infinite where there is no point."""

    sources: tuple[Source, ...]
    step_s: Array
    held_bytes: Array
    working_bytes: Array
    sync_bytes: Array

    def priced(self, per_byte_s: float) -> Array:
        """Seconds of a step with held bytes at that price, [row, state before, state after]."""
        return self.step_s + per_byte_s * self.held_bytes


def points(frontiers: Sequence[tuple[LayerFrontier, Multipliers]], in_flight: int, microbatches: int, *,
           entering_bytes: Array | None = None, bounding: bool = False) -> Points:
    """The points of a layer's frontiers that were decoded, each with the multipliers it was solved at.

    Args:
      in_flight: microbatches held at the peak.
      microbatches: of a step.
      entering_bytes: of what enters the stage, per state before its first layer; None for other layers.
      bounding: leave out what was to hide behind kernels and can't, as what the frontiers minimised does: only then
        points of solved prices bound all choices.
    """
    own = [f for f, _ in frontiers]
    sources = tuple(Source(f, g, m.recompute[g]) for f, m in frontiers for g in range(len(m)))
    parts = np.concatenate([f.parts for f in own])
    there = np.concatenate([np.isfinite(f.priced) & (True if f.decoded is None else f.decoded) for f in own])
    saved = parts[..., 4] if entering_bytes is None else parts[..., 4] + entering_bytes[None, :, None]
    step = microbatches * (parts[..., 0] + parts[..., 1]) + parts[..., 2]
    if bounding:
        step = step - np.concatenate([f.excess_s for f in own])
    return Points(sources, np.where(there, step, np.inf), parts[..., 3] + in_flight * saved,
                  np.concatenate([f.working_bytes for f in own]), parts[..., 3] + parts[..., 5])
