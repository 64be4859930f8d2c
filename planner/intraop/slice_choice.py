"""A slice with a choice for each of its layers: what it costs and holds, however the choice was found.

In: a `SliceTable`'s variant, or rows that a refinement picked. Out: `SliceChoice`, which emission, memory and time are
read from.
"""

from dataclasses import dataclass, replace
from functools import cached_property

from planner.core.recomputation import Recompute
from planner.intraop.compose import SliceTable
from planner.intraop.frontier import PARTS, LayerFrontier


@dataclass(frozen=True)
class Step:
    """A layer of a slice: the row of its frontier, the boundary states around it, how it is recomputed."""

    layer: int
    frontier: LayerFrontier
    row: int
    before: int
    after: int
    recompute: Recompute

    @property
    def way(self) -> Recompute:
        """How the layer is recomputed; nothing of one of which nothing can be selected."""
        selects = self.frontier.layer.model.selection is not None
        return self.recompute if selects or self.recompute is not Recompute.SELECTED else Recompute.NONE


@dataclass(frozen=True)
class SliceChoice:
    """Steps in order of layers, and the bytes per microbatch that enter the first (kept for its backward pass)."""

    steps: tuple[Step, ...]
    entering_bytes: float

    @cached_property
    def parts(self) -> tuple[float, ...]:
        """As `PARTS`, of the whole slice."""
        total = [self.entering_bytes if kind == "saved_bytes" else 0.0 for kind in PARTS]
        for step in self.steps:
            own = step.frontier.parts[step.row, step.before, step.after]
            total = [a + float(b) for a, b in zip(total, own, strict=True)]
        return tuple(total)

    def moved_to(self, first: int) -> "SliceChoice":
        """The same choice for as many equal layers from `first` on."""
        steps = tuple(replace(s, layer=first + n) for n, s in enumerate(self.steps))
        return SliceChoice(steps, self.entering_bytes)

    @property
    def working_bytes(self) -> float:
        return max(float(s.frontier.working_bytes[s.row, s.before, s.after]) for s in self.steps)

    @property
    def microbatch_s(self) -> float:
        return self.parts[0] + self.parts[1]

    @property
    def batch_s(self) -> float:
        return self.parts[2]

    def memory_bytes(self, in_flight: int) -> float:
        """Peak bytes per device with that many microbatches in flight, as `SliceTable.memory_bytes`."""
        return self.parts[3] + max(in_flight * self.parts[4] + self.working_bytes, self.parts[5])


def table_choice(table: SliceTable, first: int, last: int, g: int) -> SliceChoice:
    """Variant g of layers [first..last] of a table."""
    states = table.path(first, last, g)
    steps: list[Step] = []
    for layer, before, after in zip(range(first, last + 1), states[:-1], states[1:], strict=True):
        row = table.row(first, layer, g, before, after)
        steps.append(Step(layer, table.layers[layer], row, before, after, table.multipliers.recompute[row]))
    return SliceChoice(tuple(steps), float(table.entering_bytes[first][states[0]]))
