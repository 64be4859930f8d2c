"""Many steps one after another, without the host ever waiting inside one: a loss is fetched when the next step is on
its way.

A step's time is that from the end of the step before to its own end, as its loss (or its outputs) tells: batches are
made and programs started meanwhile. A loss that isn't finite ends the run; nothing is saved after it, nor where a
parameter isn't finite. Before a state is saved its step is waited for.

In: a compiled step and a state, a function from a step's number to its batch. Out: `Loop`, an iterator of `Progress`.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, Protocol

import jax
import numpy as np

from planner.core.plan import PlanRecord
from planner.errors import NonFiniteError, RunError
from planner.model import leaves_with_paths
from planner.report.progress import Amount, Memory, Progress, rates
from planner.runtime.profiling import Profiler, Trace
from planner.runtime.state import RunState

RECENT = 20
"""Steps whose median is the pace that rates are stated for."""

STOP, GO_ON = "stop", "go-on"
"""What to do about a loss that isn't finite."""


MEND = "resume from the last checkpoint, with a smaller learning rate, or look for the operator with " \
       f"jax.debug_nans; nonfinite={GO_ON!r} goes on in spite of it"


class Saver(Protocol):
    """What saves states, as `planner.Checkpoints` does."""

    def due(self, count: int) -> bool:
        """Whether the state after `count` steps is one to save."""
        ...

    def save(self, count: int, state: RunState, *, force: bool = False) -> bool:
        """Save it; see `planner.Checkpoints.save`."""
        ...


@dataclass(frozen=True)
class LoopOptions:
    """How a run goes on.

    Attributes:
      saver: saves a state where it is due, and the last one.
      nonfinite: `STOP` at a loss that isn't finite, or `GO_ON`.
      amount: what a step works through; None: as the first batch says, see `amount_of`.
      trace: profile some steps and write what they did; a later step's note says where.
    """

    saver: Saver | None = None
    nonfinite: str = STOP
    amount: Amount | None = None
    trace: Trace | None = None


@dataclass(frozen=True)
class _Sent:
    """A step that was started: its number, when, when it will have ended, and its loss if it has one."""

    number: int
    start_s: float
    end_s: Future[float]
    loss: Any


@dataclass
class _Clock:
    """Times of steps, as they end."""

    last_end_s: float = 0.0
    recent_s: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    host_s: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    count: int = 0

    def end(self, start_s: float, end_s: float) -> float:
        """The time of a step that has ended."""
        spent = end_s - max(start_s, self.last_end_s)
        self.last_end_s = end_s
        if self.count == 1:
            self.recent_s.clear()  # the first one compiled
            self.host_s.popleft()
        self.recent_s.append(spent)
        self.count += 1
        return spent


class Loop:
    """Steps to be run, as they are asked for; see the module. A loop that was broken off goes on where it was.

    Attributes:
      state: the newest one: of the step after the one last told of, or of the last step of all.
    """

    def __init__(self, record: PlanRecord, step: Callable[..., Any], state: RunState, batches: Callable[[int], Any],
                 numbers: range, options: LoopOptions | None = None) -> None:
        self.state = state
        self._record, self._step, self._batches, self._numbers = record, step, batches, numbers
        self._options = options or LoopOptions()
        self._clock = _Clock()
        self._watcher = ThreadPoolExecutor(1, "planner-loop")  # starting a step may take as long as the one before
        self._before: _Sent | None = None
        self._amount = self._options.amount
        self._devices = _devices(state)
        trace = self._options.trace
        self._profiler = None if trace is None else Profiler(record, numbers, trace)
        if self._options.nonfinite not in (STOP, GO_ON):
            raise RunError(f"nonfinite={self._options.nonfinite!r} is no way to go on", f"give {STOP!r} or {GO_ON!r}")

    def __iter__(self) -> Iterator[Progress]:
        """Run; a step is told of once it is done, by when the next one is on its way.

        Raises:
          NonFiniteError: a loss isn't finite, or a parameter that is to be saved.
          CheckpointError: a state could not be saved.
        """
        for number in self._numbers:
            yield from self._watched(number)
            sent = self._started(number)
            self._numbers = range(number + 1, self._numbers.stop)
            before, self._before = self._before, sent
            if before is not None:
                yield self._ended(before)
            if self._due(number + 1):
                self._before = None
                yield self._saved(self._ended(sent))
        yield from self._watched(self._numbers.stop)
        last, self._before = self._before, None
        if last is not None:
            yield self._ended(last)

    def _watched(self, number: int) -> Iterator[Progress]:
        """Let the profiler begin or end before a step; what is under way ends first."""
        if self._profiler is None or not self._profiler.due(number):
            return
        before, self._before = self._before, None
        done = None if before is None else self._ended(before)
        note = self._profiler.at(number, self.state)
        self._clock.last_end_s = time.perf_counter()
        if done is not None:
            yield replace(done, note="; ".join(x for x in (done.note, note) if x))

    def _started(self, number: int) -> _Sent:
        batch = self._batches(number)
        if self._amount is None:
            self._amount = amount_of(batch, self._record.batch_size)
        start = time.perf_counter()
        busy = time.thread_time()
        result = self._step(self.state, batch)
        self._clock.host_s.append(time.thread_time() - busy)
        metrics = self._taken(result)
        loss = metrics.get("loss") if isinstance(metrics, dict) else None
        told = jax.tree_util.tree_leaves(metrics if loss is None else loss)
        ends = [x for x in told if isinstance(x, jax.Array)]
        if not ends:  # nothing but the state tells its end, and the next step takes that over
            jax.block_until_ready(self.state)
        return _Sent(number, start, self._watcher.submit(_end_s, ends), loss)

    def _taken(self, result: Any) -> Any:
        """What a step gave besides the state, which is kept."""
        if self._record.kind != "inference":
            self.state, metrics = result
            return metrics
        if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], RunState):
            outputs, self.state = result
            return outputs
        return result

    def _ended(self, sent: _Sent) -> Progress:
        spent = self._clock.end(sent.start_s, sent.end_s.result())
        loss = None if sent.loss is None else float(sent.loss)
        note = ""
        if loss is not None and not math.isfinite(loss):
            if self._options.nonfinite == STOP:
                raise NonFiniteError(sent.number, f"the loss of step {sent.number} is {loss}", MEND)
            note = "the loss is not finite"
        assert self._amount is not None
        known = rates(self._record, median(self._clock.recent_s), self._amount, memory(self._record, self._devices),
                      as_planned=self._record.cluster.device.name == "cpu" or self._devices[0].platform != "cpu")
        return Progress(sent.number, loss, spent, known, median(self._clock.host_s), note)

    def _due(self, count: int) -> bool:
        saver = self._options.saver
        return saver is not None and (saver.due(count) or count == self._numbers.stop)

    def _saved(self, done: Progress) -> Progress:
        saver, count = self._options.saver, done.number + 1
        assert saver is not None
        bad = nonfinite_parameter(self.state)
        if bad is None:
            saver.save(count, self.state, force=True)
            self._clock.last_end_s = time.perf_counter()
            return done
        if self._options.nonfinite == STOP:
            raise NonFiniteError(done.number, f"after step {done.number}, parameter {bad!r} is not finite everywhere, "
                                 "and the state was not saved", MEND)
        return replace(done, note=f"not saved: parameter {bad!r} is not finite")


def nonfinite_parameter(state: RunState) -> str | None:
    """The path of a parameter with a number that isn't finite; None if all are."""
    groups: dict[frozenset[jax.Device], list[tuple[str, Any]]] = {}
    for place, leaf in zip(state.layout.params, state.param_leaves, strict=True):
        if jax.numpy.issubdtype(leaf.dtype, np.inexact):
            # of an array that other processes have parts of, each looks at its own
            parts = [leaf] if leaf.is_fully_addressable else [s.data for s in leaf.addressable_shards]
            for part in parts:
                groups.setdefault(frozenset(part.sharding.device_set), []).append((place.path, part))
    for group in groups.values():
        for (path, _), finite in zip(group, np.asarray(_all_finite([leaf for _, leaf in group])), strict=True):
            if not finite:
                return path
    return None


def _end_s(arrays: Sequence[jax.Array]) -> float:
    """When arrays were there, as this thread learns at once."""
    jax.block_until_ready(arrays)
    return time.perf_counter()


@jax.jit
def _all_finite(arrays: Sequence[Any]) -> Any:
    """Whether each array is finite everywhere; all lie on the same devices."""
    return jax.numpy.stack([jax.numpy.isfinite(x).all() for x in arrays])


def amount_of(batch: Any, batch_size: int) -> Amount:
    """What a batch holds: tokens, as many as the largest leaf of integers has that is more than one number an example;
    else examples."""
    sizes = [int(np.size(x)) for _, x in leaves_with_paths(batch)
             if np.ndim(x) > 1 and jax.numpy.issubdtype(x.dtype, np.integer)]
    return Amount(max(sizes), "tokens") if sizes else Amount(batch_size, "examples")


def memory(record: PlanRecord, devices: Sequence[jax.Device]) -> Memory:
    """The fullest device's peak since the process began, or the plan's prediction where devices don't count it."""
    stats = [device.memory_stats() or {} for device in devices]
    peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
    if peaks:
        return Memory(max(peaks), measured=True)
    return Memory(record.peak_bytes, measured=False)


def _devices(state: RunState) -> tuple[jax.Device, ...]:
    found = {d for leaf in jax.tree_util.tree_leaves(state) for d in leaf.sharding.addressable_devices}
    return tuple(sorted(found, key=lambda d: d.id)) or tuple(jax.local_devices()[:1])
