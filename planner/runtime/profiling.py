"""Profiles some steps of a run by JAX's profiler, and reads back when each device ran which program.

The profiler notes when operators begin and end, and does not wait for them: an execution lasts from its first operator
to its last. What it writes is a folder of `XSpace` files, read by `jax.profiler.ProfileData`. Where an operator says
which run of its program it belongs to (XLA on CPU) or the device lists whole programs ("XLA Modules"), that is taken;
else (GPUs) a program's operators on a device, in order of time, are cut into as many equal parts as there were calls.

In: the numbers of steps, as they come. Out: a file with the typical step's trace beside the simulated one.
"""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from planner.core.plan import PlanRecord
from planner.core.programs import named_program
from planner.errors import PlannerError, RunError
from planner.report.formats import FORMATS
from planner.report.measured import HOST, KINDS, Execution, MeasuredStep, measured_steps, typical
from planner.report.trace_events import write_trace
from planner.simulate import simulate

MODULES = "XLA Modules"
"""The profiler's line of whole programs on a device."""

HOST_PLANE = "/host:CPU"
_CALL = re.compile(r"PjitFunction\((\w+)\)")


@dataclass(frozen=True)
class Trace:
    """What to trace of a run: so many steps after the first two, of which the typical one is written beside the
    simulated step.

    Attributes:
      paths: files to write: `.png`, `.svg` or `.pdf` pictures, else JSON for Perfetto or Chrome's tracing.
      steps: how many are profiled.
    """

    paths: Sequence[str | os.PathLike[str]]
    steps: int = 3


class Profiler:
    """Watches some steps of a run, by JAX's profiler.

    Args:
      record: the plan they run under.
      numbers: of all steps of the run.
      trace: how many of them, and the file for what is seen.
    """

    def __init__(self, record: PlanRecord, numbers: range, trace: Trace) -> None:
        if len(numbers) < 2 or trace.steps < 1:
            raise RunError(f"{len(numbers)} steps with {trace.steps} of them traced", "run at least two steps, for the "
                           "first one compiles, and trace at least one")
        if record.replicas:
            raise RunError("programs of several replicas have the same names, and none is told from the other",
                           "trace a plan with replicas=1")
        self._record, self._trace = record, trace
        self._first = numbers.start + min(2, len(numbers) - 1)
        self._stop = min(self._first + trace.steps, numbers.stop)
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def due(self, number: int) -> bool:
        """Whether something is to be done before the step of this number starts."""
        return number == self._first or (number == self._stop and self._folder is not None)

    def at(self, number: int, state: Any) -> str:
        """Begin to watch before a step, or write what was seen before it; the news, in words. No step is under way.

        A profile that can't be used is told and ends nothing.
        """
        jax.block_until_ready(state)
        try:
            if number == self._first:
                self._folder = _started()
                return ""
            measured = typical(measured_steps(self._record, self._seen(), self._stop - self._first))
            for path in self._trace.paths:
                _write(self._record, measured, Path(path))
        except PlannerError as fault:
            return f"no trace: {fault.what}"
        return f"traced {self._stop - self._first} steps: {', '.join(map(str, self._trace.paths))}"

    def _seen(self) -> list[Execution]:
        folder, self._folder = self._folder, None
        assert folder is not None
        with folder as place:
            jax.profiler.stop_trace()
            files = sorted(Path(place).rglob("*.xplane.pb"))
            if not files:
                raise RunError("the profiler has written nothing", "see that there is room for temporary files")
            found = jax.profiler.ProfileData.from_file(str(files[-1]))
            return list(executions(found, self._record.microbatches, self._stop - self._first))


def _write(record: PlanRecord, measured: MeasuredStep, path: Path) -> None:
    if path.suffix.lower() in FORMATS:
        from planner.report import plots  # imports matplotlib

        plots.plot_measured(record, measured, path)
    else:
        write_trace(simulate(record), path, measured)


def _started() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="planner-profile-")
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # calls of Python functions are nothing we look for, and take time
    try:
        jax.profiler.start_trace(folder.name, profiler_options=options)
    except RuntimeError as fault:
        folder.cleanup()
        raise RunError(f"the profiler cannot start: {fault}", "end the profile that is under way") from fault
    return folder


def executions(profile: Any, microbatches: int, steps: int) -> Iterator[Execution]:
    """Every call of a program of ours on every device.

    Args:
      profile: a `jax.profiler.ProfileData`.
      microbatches: how often a step calls the programs that run for each.
      steps: how many steps it is of.
    """
    for plane in profile.planes:
        device = _device(plane.name)
        lines = list(plane.lines)
        whole = [line for line in lines if line.name == MODULES]
        if device is not None and whole:
            yield from _whole_programs(device, whole)
        elif device is not None or plane.name == HOST_PLANE:
            yield from _from_operators(device, lines, microbatches, steps)
        if plane.name == HOST_PLANE:
            yield from _calls(lines)


def _device(plane: str) -> int | None:
    kind, _, number = plane.rpartition(":")
    return int(number) if kind.startswith("/device:") and number.isdigit() else None


def _whole_programs(device: int, lines: Sequence[Any]) -> Iterator[Execution]:
    for line in lines:
        for n, event in enumerate(sorted(line.events, key=lambda e: e.start_ns)):
            name = event.name.partition("(")[0]
            if named_program(name):
                yield Execution(device, name, n, 1e-9 * event.start_ns, 1e-9 * event.end_ns)


def _from_operators(device: int | None, lines: Sequence[Any], microbatches: int, steps: int) -> Iterator[Execution]:
    told: dict[tuple[int, str, int], list[tuple[float, float]]] = {}
    untold: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        for event in line.events:
            stats: Mapping[str, Any] = dict(event.stats)
            name = str(stats.get("hlo_module", ""))
            if not named_program(name):
                continue
            span = (1e-9 * event.start_ns, 1e-9 * event.end_ns)
            place = stats.get("device_ordinal") if device is None else device
            if "run_id" in stats and place is not None:
                told.setdefault((int(place), name, int(stats["run_id"])), []).append(span)
            elif device is not None:  # the host's own events of a program are no work of a device
                untold.setdefault(name, []).append(span)
    for (place, name, run), spans in told.items():
        yield _spanned(place, name, run, spans)
    for name, spans in untold.items():
        assert device is not None
        yield from _cut(device, name, sorted(spans), microbatches, steps)


def _calls(lines: Sequence[Any]) -> Iterator[Execution]:
    """The host's calls of programs; the profiler may tell one twice, one inside the other."""
    for line in lines:
        ends: dict[str, float] = {}
        for event in sorted(line.events, key=lambda e: e.start_ns):
            found = _CALL.fullmatch(event.name)
            if found and named_program(found[1]) and event.start_ns >= ends.get(found[1], 0.0):
                ends[found[1]] = event.end_ns
                yield Execution(HOST, found[1], 0, 1e-9 * event.start_ns, 1e-9 * event.end_ns)


def _cut(device: int, name: str, spans: Sequence[tuple[float, float]], microbatches: int, steps: int
         ) -> Iterator[Execution]:
    """Operators of a program that don't say which call they belong to: as many in each."""
    found = named_program(name)
    assert found is not None
    calls = steps * (microbatches if found[1] in KINDS else 1)
    each, more = divmod(len(spans), calls)
    if more or not each:
        raise RunError(f"the profile has {len(spans)} operators of {name!r} in {calls} calls",
                       "profile fewer steps: profilers drop events when there are too many")
    for n in range(calls):
        yield _spanned(device, name, n, spans[n * each:(n + 1) * each])


def _spanned(device: int, name: str, run: int, spans: Sequence[tuple[float, float]]) -> Execution:
    return Execution(device, name, run, min(a for a, _ in spans), max(b for _, b in spans))
