"""What a search is asked: a model's identity, a cluster, and what the user fixed.

In: the fields of a `Request`. `check_pins` refuses, before anything is traced, what can't be.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from planner.core.graph import Graph, Program
from planner.core.hardware import Cluster
from planner.core.pins import Pins
from planner.core.recomputation import Recompute
from planner.errors import BatchError, PinError, PlannerError
from planner.mesh_tables import OneByOne, Tables
from planner.phases import Phases
from planner.pipelines.pins import check_schedule, stages_per_rank

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What to plan: the model's identity, how to trace it, where, and what is fixed. `told`: the cluster with other
    memory, which what layers hold may add up to; `rough`: stages that memory limits are not refined; `deadline`, in
    the seconds of `time.perf_counter`: from then on, every search ends with the first plan that fits."""

    trace: Callable[[int, Graph | None], Program]  # microbatches, and the update graph if it was traced before
    model_name: str
    kind: str
    batch_size: int
    cluster: Cluster
    pins: Pins
    version: str
    deadline: float = float("inf")
    progress: Progress = print
    tables: Tables = field(default_factory=OneByOne)  # or one that reads what was kept, and has others to help it
    told: Cluster | None = None
    rough: bool = False
    phases: Phases = field(default_factory=Phases)

    @property
    def limits(self) -> Cluster:
        """The cluster with the memory that a search goes by."""
        return self.told or self.cluster

    @property
    def is_told_of_more(self) -> bool:
        """Whether that is more than some devices have."""
        return any(told.device.memory_bytes > kind.device.memory_bytes
                   for told, kind in zip(self.limits.kinds, self.cluster.kinds, strict=True))


@dataclass(frozen=True)
class Remembered:
    """A way to trace that does so once for each number of microbatches, however often a search has to be repeated;
    `known`: what was traced."""

    trace: Callable[[int, Graph | None], Program]
    known: dict[int, Program] = field(default_factory=dict[int, Program])

    def __call__(self, microbatches: int, update: Graph | None) -> Program:
        if microbatches not in self.known:
            self.known[microbatches] = self.trace(microbatches, update)
        return self.known[microbatches]


def check_budget(budget_s: float | None) -> None:
    """Refuse what is no number of seconds.

    Raises:
      PlannerError: see its message.
    """
    if budget_s is not None and not budget_s >= 0:
        raise PlannerError(f"a budget of {budget_s} seconds", "give seconds, or 0 for the first plan that fits")


def deadline_after(budget_s: float | None) -> float:
    """The `deadline` of a search that begins now and may take so many seconds; None: any number. Raises as
    `check_budget`."""
    check_budget(budget_s)
    return float("inf") if budget_s is None else time.perf_counter() + budget_s


def check_replicas(request: Request) -> None:
    """Refuse more replicas than there are types of devices.

    Raises:
      PinError: see its message.
    """
    count, kinds = request.pins.replicas, request.cluster.kinds
    if count is not None and count < 1:
        raise PinError(f"{count} replicas", "ask for at least one")
    if count is not None and count > len(kinds):
        raise PinError(f"{count} replicas on {len(kinds)} type{'s' if len(kinds) > 1 else ''} of devices",
                       "each is on a type of its own; on one type, data parallelism is a mesh axis of every stage")


def check_pins(request: Request) -> None:
    """Refuse pins that contradict the batch or one another.

    Raises:
      BatchError, PinError, UnknownNameError: see their messages.
    """
    pins, batch = request.pins, request.batch_size
    b = pins.microbatches
    if b is not None and (b < 1 or batch % b):
        near = [n for n in range(1, batch + 1) if batch % n == 0]
        raise BatchError(f"{b} microbatches don't divide a batch of {batch}",
                         f"use one of {', '.join(map(str, sorted(near, key=lambda n: abs(n - b))[:4]))}")
    if pins.stages is not None and pins.stages < 1:
        raise PinError(f"{pins.stages} stages", "ask for at least one stage")
    check_replicas(request)
    check_schedule(pins, request.kind, request.cluster)
    stages = pins.stages or len(pins.boundaries or ()) + 1
    if stages_per_rank(pins) == 1 and stages > request.cluster.device_count:
        raise PinError(f"{stages} stages on {request.cluster.device_count} devices", "each stage needs a device")
    if pins.boundaries is not None:
        cuts = pins.boundaries
        if list(cuts) != sorted(set(cuts)) or (cuts and cuts[0] < 1):
            raise PinError(f"stage boundaries {cuts} are not increasing positions after 0", "e.g. boundaries=(4, 8)")
        if pins.stages is not None and pins.stages != len(cuts) + 1:
            raise PinError(f"{pins.stages} stages contradict {len(cuts)} boundaries ({len(cuts) + 1} stages)",
                           "give one of the two, or make them agree")
    if request.kind == "step" and ((pins.stages or 1) > 1 or (b or 1) > 1):
        raise PinError("a train step written by the user runs as one stage with one microbatch",
                       "give the loss function and the optimizer separately to have it pipelined")
    ways = ("auto", *Recompute)
    if isinstance(pins.recompute, str) and pins.recompute not in ways:
        raise PinError(f"recompute={pins.recompute!r}", f"use one of {', '.join(ways)}")
    if pins.offload not in (None, "auto", "none", "optimizer", "activations"):
        raise PinError(f"offload={pins.offload!r} is none of what can be kept in host memory",
                       'give "none", "optimizer", "activations" or "auto"')
