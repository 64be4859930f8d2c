"""The collectives that a plan foresees beside those that the compiler made: which belong together, and what is left.

A compiled array belongs to a foreseen tensor of the same kind, mesh axes and bytes, first of the same gradient; then,
of what is left, to one of nearly the same bytes, or to several laid together. Each is matched as often as a step runs
it. An all-reduce may stand for a foreseen reduce-scatter: it stays unforeseen, but for what was foreseen in its place.
In: the stage, its compiled programs, what the compiler is known to do. Out: `Matched`.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from planner.core.plan import GRADIENT_OF, PlanRecord, StagePlan
from planner.costs.collectives import ALL_GATHER, ALL_REDUCE, REDUCE_SCATTER
from planner.emit.names import named_gradient
from planner.verify.compiled import CompiledProgram

_FLAT = re.compile(r"\w+\[\d+\]")
_NUMBER = re.compile(r"\[?\d+\]?")

NEARLY = 0.1
"""Relative difference of bytes up to which two tensors may be one: padding, a bias that is carried along."""


@dataclass(frozen=True, slots=True)
class Foreseen:
    """A collective of the plan: bytes as `costs/collectives.py` counts them, times a step, predicted seconds of one."""

    kind: str
    axes: tuple[int, ...]
    bytes: int
    times: int
    where: str
    time_s: float


@dataclass(frozen=True, slots=True)
class Made:
    """A collective of a compiled program: as `Foreseen`, with its place.

    Attributes:
      axes: None where its groups are those of no mesh axes.
      moved: as in `CompiledCollective`; `devices` take part.
      together: bytes of all arrays of the instruction.
      tensor: the array on one device.
      instead_s: seconds of what was foreseen in its place, if anything was.
    """

    kind: str
    axes: tuple[int, ...] | None
    bytes: int
    moved: int
    devices: int
    together: int
    times: int
    program: str
    tensor: str
    op_name: str
    instead_s: float | None = None


@dataclass(frozen=True)
class Matched:
    """All collectives of a stage, and what of them has no counterpart."""

    foreseen: tuple[Foreseen, ...]
    made: tuple[Made, ...]
    unforeseen: tuple[Made, ...]
    absent: tuple[Foreseen, ...]


def match(record: PlanRecord, stage: StagePlan, programs: Sequence[CompiledProgram], *, scatters_as_reduces: bool
          ) -> Matched:
    """Match a stage's collectives.

    Args:
      record, stage: the plan.
      programs: of that stage.
      scatters_as_reduces: the compiler runs a reduce-scatter as an all-reduce and a slice.
    """
    foreseen = tuple(f for f in _foreseen(record, stage, scatters_as_reduces=scatters_as_reduces) if f.bytes and f.axes)
    flat = tuple(m for p in programs for m in _made(p, stage))
    left_made, left_foreseen = _pair(flat, foreseen, lambda m, f: m.bytes == f.bytes and _same_gradient(m, f))
    left_made, left_foreseen = _pair(left_made, left_foreseen, lambda m, f: m.bytes == f.bytes)
    left_made, left_foreseen = _pair(left_made, left_foreseen,
                                     lambda m, f: abs(m.bytes - f.bytes) <= NEARLY * max(m.bytes, f.bytes))
    left_made, left_foreseen = _laid_together(left_made, left_foreseen)
    left_made, left_foreseen = _in_place_of(left_made, left_foreseen, stage.mesh_shape)
    return Matched(foreseen, flat, left_made, left_foreseen)


def _foreseen(record: PlanRecord, stage: StagePlan, *, scatters_as_reduces: bool) -> list[Foreseen]:
    found: list[Foreseen] = []
    for c in stage.collectives:
        axes = tuple(sorted(a for a in c.axes if stage.mesh_shape[a] > 1))
        kind = ALL_REDUCE if scatters_as_reduces and c.kind == REDUCE_SCATTER else c.kind
        times = c.count * (record.microbatches if c.per == "microbatch" else 1)
        found.append(Foreseen(kind, axes, c.bytes // c.count, times, c.where, c.time_s / c.count))
    return found


def _made(program: CompiledProgram, stage: StagePlan) -> tuple[Made, ...]:
    together: Counter[str] = Counter()
    for c in program.collectives:
        together[c.instruction] += c.bytes
    return tuple(Made(c.kind, c.axes(stage.mesh_shape), c.bytes, c.moved, c.group,
                      together[c.instruction], c.times * program.row.times, program.row.name, str(c.array), c.op_name)
                 for c in program.collectives)


def _pair(made: Sequence[Made], foreseen: Sequence[Foreseen], fits: Callable[[Made, Foreseen], bool]
          ) -> tuple[tuple[Made, ...], tuple[Foreseen, ...]]:
    """What is left of both when those that fit have been matched, as often as both are run."""
    waiting: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for n, f in enumerate(foreseen):
        waiting.setdefault((f.kind, f.axes), []).append(n)
    open_times = [f.times for f in foreseen]
    left: list[Made] = []
    for m in sorted(made, key=lambda m: -m.bytes):
        times = m.times
        for n in _candidates(waiting, m):
            if times and open_times[n] and fits(m, foreseen[n]):
                taken = min(times, open_times[n])
                times, open_times[n] = times - taken, open_times[n] - taken
        if times:
            left.append(replace(m, times=times))
    return tuple(left), tuple(replace(f, times=n) for f, n in zip(foreseen, open_times, strict=True) if n)


def _same_gradient(made: Made, foreseen: Foreseen) -> bool:
    """Whether both are of the gradient of one parameter, or of parameters alike of layers that repeat."""
    name = named_gradient(made.op_name)
    return name is not None and _NUMBER.sub("*", f"{GRADIENT_OF}{name}") == _NUMBER.sub("*", foreseen.where).replace(
        "/", ".")


def _laid_together(made: Sequence[Made], foreseen: Sequence[Foreseen]
                   ) -> tuple[tuple[Made, ...], tuple[Foreseen, ...]]:
    """What is left when arrays of one dimension may be several tensors, one behind the other, as XLA on GPU combines:
    foreseen tensors of the kind and axes fill them, the largest first, and all but `NEARLY` of each must be filled."""
    open_times = [f.times for f in foreseen]
    largest_first = sorted(range(len(foreseen)), key=lambda n: -foreseen[n].bytes)
    left: list[Made] = []
    for m in made:
        times = m.times
        while times and _FLAT.fullmatch(m.tensor):
            taken: Counter[int] = Counter()
            room = m.bytes
            for n in largest_first:
                f = foreseen[n]
                if (f.kind, f.axes) == (m.kind, m.axes):
                    taken[n] = min(open_times[n], room // f.bytes)
                    room -= taken[n] * f.bytes
            if room > NEARLY * m.bytes:
                break
            times -= 1
            open_times = [n - taken[k] for k, n in enumerate(open_times)]
        if times:
            left.append(replace(m, times=times))
    return tuple(left), tuple(replace(f, times=n) for f, n in zip(foreseen, open_times, strict=True) if n)


def _in_place_of(made: Sequence[Made], foreseen: Sequence[Foreseen], mesh_shape: tuple[int, ...]
                 ) -> tuple[tuple[Made, ...], tuple[Foreseen, ...]]:
    """All-reduces put in the place of foreseen reduce-scatters of the same bytes: along the same axes, perhaps with an
    all-gather that is not made either, for nothing is left to gather; or along more axes, with the all-reduces of the
    shards. TPUs scatter neither the last dimension to less than two tiles of 128, nor vectors to less than one of
    1,024, as libtpu 0.0.52 compiles."""
    open_times = [f.times for f in foreseen]
    left: list[Made] = []
    for m in made:
        times = m.times
        for n, f in enumerate(foreseen):
            taken = min(times, open_times[n])
            if taken and m.kind == ALL_REDUCE and _scatters(m, f):
                rest = tuple(a for a in m.axes or () if a not in f.axes)
                shard = f.bytes // prod(mesh_shape[a] for a in f.axes)
                wanted = (ALL_REDUCE, rest, shard) if rest else (ALL_GATHER, f.axes, f.bytes)
                after = [k for k, g in enumerate(foreseen) if open_times[k] >= taken
                         and (g.kind, g.axes, g.bytes) == wanted][:1]
                if after or not rest:
                    open_times = [t - taken * (k == n or k in after) for k, t in enumerate(open_times)]
                    left.append(replace(m, times=taken, instead_s=sum(foreseen[k].time_s for k in (n, *after))))
                    times -= taken
        if times:
            left.append(replace(m, times=times))
    return tuple(left), tuple(replace(f, times=n) for f, n in zip(foreseen, open_times, strict=True) if n)


def _scatters(made: Made, foreseen: Foreseen) -> bool:
    """Whether a reduction combines all that a foreseen reduce-scatter does."""
    return foreseen.kind == REDUCE_SCATTER and foreseen.bytes == made.bytes and made.axes is not None \
        and set(foreseen.axes) <= set(made.axes)


def _candidates(waiting: Mapping[tuple[str, tuple[int, ...]], list[int]], made: Made) -> list[int]:
    return [] if made.axes is None else waiting.get((made.kind, made.axes), [])
