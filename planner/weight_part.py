"""The part of a stage's backward that only makes gradients of parameters: its seconds, and what waits for it.

Schedules that run it apart (`core/backward_split.py` says which operators it is) need to know how long it takes, and
how much is held of a microbatch between the two parts: what it reads. Reductions and resharding stay with the first
part, which makes what the stage before waits for; gradients combined in every microbatch are no part of either here.

In: layers' choices. Out: seconds and bytes on each device.
"""

from dataclasses import dataclass, field

import numpy as np

from planner.intraop.frontier import LayerFrontier
from planner.intraop.slice_choice import SliceChoice, Step

Key = tuple[int, int, int, int]


@dataclass(frozen=True)
class Part:
    """Of one microbatch: seconds of kernels, bytes that they read."""

    seconds: float
    read_bytes: float


@dataclass(frozen=True)
class WeightPart:
    """Looks up what layers' weight gradients take; each choice is priced once. `ops`: the operators of that part."""

    ops: frozenset[int]
    known: dict[Key, tuple[LayerFrontier, Part]] = field(default_factory=dict[Key, tuple[LayerFrontier, Part]])

    def of(self, choice: SliceChoice) -> Part:
        """Of a whole slice."""
        parts = [self.of_step(step) for step in choice.steps]
        return Part(sum(p.seconds for p in parts), sum(p.read_bytes for p in parts))

    def of_step(self, step: Step) -> Part:
        """Of one layer."""
        key = (id(step.frontier), step.row, step.before, step.after)
        if key not in self.known:  # the frontier is kept as well, so that no other takes its id
            self.known[key] = step.frontier, self._part(step)
        return self.known[key][1]

    def _part(self, step: Step) -> Part:
        picks = step.frontier.choice(step.row, step.before, step.after)
        mine = [(price, int(pick)) for price, pick in zip(step.frontier.layer.prices, picks, strict=False)]
        seconds = sum(float(price.kernels_s(self.ops)[pick]) for price, pick in mine)
        held = sum(float(price.read_bytes(self.ops)[pick]) for price, pick in mine)
        backward = float(np.maximum(step.frontier.parts[step.row, step.before, step.after, 1], 0.0))
        return Part(min(seconds, backward), held)
