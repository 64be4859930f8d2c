"""What happened when: the answer of a simulation, kept as columns of numbers so that long steps stay small.

In: columns that the event simulation filled. Out: intervals one by one, busy and idle time, bubble, overlap,
memory over time.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

import numpy as np
from numpy.typing import NDArray

from planner.core.layout import Layout
from planner.core.plan import MemoryParts
from planner.errors import PlannerError


class Stream(StrEnum):
    """What an interval occupies: a stage's arithmetic (waiting for its own communication included), its communication,
    or the link by which it receives activations and cotangents."""

    COMPUTE = "compute"
    COLLECTIVE = "collective"
    LINK = "link"


class Work(StrEnum):
    """What is done in an interval."""

    FORWARD = "forward"
    BACKWARD = "backward"
    INPUT_GRADIENT = "input gradient"
    WEIGHT_GRADIENT = "weight gradient"
    UPDATE = "update"
    HAND_OVER = "hand-over"
    GATHER = "gather"
    SYNC = "sync"
    REDUCE = "reduce"  # communication that kernels wait for: reductions, resharding


STREAMS, WORKS = tuple(Stream), tuple(Work)


@dataclass(frozen=True, slots=True)
class Interval:
    """Something at work. `microbatch` is None for what is done once a step, `layer` None where it is not known."""

    stage: int
    stream: Stream
    work: Work
    microbatch: int | None
    layer: int | None
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Columns:
    """Intervals, one column a field; -1 stands for None."""

    stage: "array[int]" = field(default_factory=lambda: array("i"))
    stream: "array[int]" = field(default_factory=lambda: array("b"))
    work: "array[int]" = field(default_factory=lambda: array("b"))
    microbatch: "array[int]" = field(default_factory=lambda: array("i"))
    layer: "array[int]" = field(default_factory=lambda: array("i"))
    start_s: "array[float]" = field(default_factory=lambda: array("d"))
    end_s: "array[float]" = field(default_factory=lambda: array("d"))

    def __len__(self) -> int:
        return len(self.stage)

    def __getitem__(self, n: int) -> Interval:
        microbatch, layer = self.microbatch[n], self.layer[n]
        return Interval(self.stage[n], STREAMS[self.stream[n]], WORKS[self.work[n]],
                        microbatch if microbatch >= 0 else None, layer if layer >= 0 else None, self.start_s[n],
                        self.end_s[n])


class Edge(IntEnum):
    """What changes a stage's memory: the start or the end of a task, in the order of `schedules.Kind`."""

    FORWARD_STARTS = 0
    FORWARD_ENDS = 1
    BACKWARD_STARTS = 2
    BACKWARD_ENDS = 3
    INPUT_STARTS = 4
    INPUT_ENDS = 5
    WEIGHT_STARTS = 6
    WEIGHT_ENDS = 7
    UPDATE_STARTS = 8
    UPDATE_ENDS = 9


@dataclass(frozen=True)
class MemoryCurve:
    """Bytes on each device of a stage: `held_bytes[n]` from `times_s[n]` on, until the next time."""

    times_s: NDArray[np.float64]
    held_bytes: NDArray[np.float64]

    @property
    def peak_bytes(self) -> float:
        """The most that is ever held."""
        return float(self.held_bytes.max())


@dataclass(frozen=True, eq=False)
class StageLine:
    """One stage's part of a timeline.

    Attributes:
      kernels_s: its arithmetic, and starting its programs.
      busy_s: that its arithmetic is taken, waiting for its own communication included.
      communication_s: of its devices, hand-overs to it included.
      hidden_s: of that, what runs beside arithmetic.
      in_flight: the most microbatches whose activations are held; of a backward in two parts, until its last.
      memory: of one device, at the predicted peak.
      microbatch_bytes: of that, activations of one microbatch in flight.
      waiting_bytes: what a microbatch leaves between input and weight gradient.
      edge_times_s, edges: starts and ends of its tasks, in order of time.
      keeps: whether activations stay until the backward.
    """

    kernels_s: float
    busy_s: float
    communication_s: float
    hidden_s: float
    in_flight: int
    memory: MemoryParts
    microbatch_bytes: float
    waiting_bytes: float
    edge_times_s: "array[float]"
    edges: "array[int]"
    keeps: bool

    @property
    def resident_bytes(self) -> int:
        """Bytes of one device that stay: parameters, optimizer state, gradients."""
        return self.memory.params_bytes + self.memory.opt_state_bytes + self.memory.grads_bytes

    def memory_curve(self) -> MemoryCurve:
        """Bytes over time: what stays, the activations of each microbatch from its forward's start to its backward's
        end, and the working set of what runs."""
        return _curve(self.resident_bytes, np.array(self.edge_times_s), self.changes_bytes())

    def changes_bytes(self) -> NDArray[np.float64]:
        """What every edge adds to the memory."""
        each, late, work = self.microbatch_bytes, self.waiting_bytes, self.memory.transient_bytes
        stays = each if self.keeps else 0.0
        return np.array([each + work, stays - each - work, work, -each - work, work, late - each - work, work,
                         -late - work, work, -work], dtype=np.float64)[np.array(self.edges, dtype=np.int64)]


def _curve(resident_bytes: float, times_s: NDArray[np.float64], changes_bytes: NDArray[np.float64]) -> MemoryCurve:
    held = resident_bytes + np.cumsum(np.concatenate([[0.0], changes_bytes]))
    times = np.concatenate([[0.0], times_s])
    lasting = np.append(np.diff(times) > 0, True)
    return MemoryCurve(times[lasting], held[lasting])


@dataclass(frozen=True, eq=False)
class Timeline:
    """When everything happened in one step. `print(timeline)` says it in words.

    Attributes:
      stages: per stage, its sums and its memory.
      step_time_s: end of all work.
      columns: all intervals; None where only sums were asked for.
      layout: which rank runs which stage.
    """

    stages: tuple[StageLine, ...]
    step_time_s: float
    columns: Columns | None
    layout: Layout

    @property
    def intervals(self) -> "Intervals":
        """All intervals, made one by one as they are looked at.

        Raises:
          PlannerError: the timeline was made without them.
        """
        if self.columns is None:
            raise PlannerError("this timeline has sums and no intervals", "simulate with intervals=True")
        return Intervals(self.columns)

    def between(self, start_s: float, end_s: float) -> list[Interval]:
        """The intervals of which something lies in [start, end).

        Raises:
          PlannerError: as `intervals`.
        """
        found = self.intervals
        inside = (np.array(found.columns.start_s) < end_s) & (np.array(found.columns.end_s) > start_s)
        return [found[n] for n in np.flatnonzero(inside).tolist()]

    @property
    def in_flight(self) -> tuple[int, ...]:
        """Per stage, the most microbatches whose activations were held."""
        return tuple(s.in_flight for s in self.stages)

    def busy_s(self, stage: int) -> float:
        """Seconds that a stage works."""
        return self.stages[stage].busy_s

    @property
    def bubble(self) -> float:
        """Share of the ranks' time in which they wait for each other."""
        whole = self.layout.ranks * self.step_time_s
        return max(0.0, 1.0 - sum(s.busy_s for s in self.stages) / whole) if whole else 0.0

    @property
    def overlap(self) -> float:
        """Share of all communication that runs beside arithmetic; 0 where there is none."""
        whole = sum(s.communication_s for s in self.stages)
        return sum(s.hidden_s for s in self.stages) / whole if whole else 0.0

    def memory_curve(self, stage: int) -> MemoryCurve:
        """Bytes that one stage takes on each of its devices over time."""
        return self.stages[stage].memory_curve()

    def rank_memory_curve(self, rank: int) -> MemoryCurve:
        """Bytes on each device of a rank over time: of all its stages."""
        mine = [self.stages[s] for s in self.layout.stages_of(rank)]
        times = np.concatenate([np.array(s.edge_times_s) for s in mine])
        changes = np.concatenate([s.changes_bytes() for s in mine])
        order = np.lexsort((changes > 0, times))  # what is given back at a time, before what is taken
        return _curve(sum(s.resident_bytes for s in mine), times[order], changes[order])

    def summary(self) -> dict[str, object]:
        """The sums, as data for JSON."""
        return {"step_time_s": self.step_time_s, "bubble": self.bubble, "overlap": self.overlap, "stages": [
            {"busy_s": s.busy_s, "idle_s": self.step_time_s - s.busy_s, "kernels_s": s.kernels_s,
             "communication_s": s.communication_s, "hidden_s": s.hidden_s, "in_flight": s.in_flight,
             "peak_bytes": s.memory_curve().peak_bytes} for s in self.stages]}

    def __str__(self) -> str:
        head = (f"step {_ms(self.step_time_s)} ms, bubble {100 * self.bubble:.1f} %, "
                f"{100 * self.overlap:.0f} % of communication hidden")
        titles = ("stage", "busy ms", "idle ms", "kernels ms", "comm. ms", "hidden ms", "in flight", "peak GB")
        rows = [(str(n), _ms(s.busy_s), _ms(self.step_time_s - s.busy_s), _ms(s.kernels_s), _ms(s.communication_s),
                 _ms(s.hidden_s), str(s.in_flight), f"{s.memory_curve().peak_bytes / 1e9:.3f}")
                for n, s in enumerate(self.stages)]
        return "\n".join([head, "", *("  ".join(f"{cell:>10}" for cell in row) for row in (titles, *rows))])


@dataclass(frozen=True, eq=False)
class Intervals(Sequence[Interval]):
    """A view of columns as `Interval`s."""

    columns: Columns

    def __len__(self) -> int:
        return len(self.columns)

    def __getitem__(self, n: int) -> Interval:  # type: ignore[override]
        return self.columns[n]

    def __iter__(self) -> Iterator[Interval]:
        return (self.columns[n] for n in range(len(self.columns)))


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.3f}"
