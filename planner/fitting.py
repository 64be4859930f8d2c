"""A plan that is said to fit, fits: what a search finds is held against the memory of the programs it will run.

The search adds up what layers hold, which composes but is not how a compiler lays out memory. Here the plan found is
followed operator by operator (`footprint/`). If it takes more than a device has, the search is run again with a limit
as much tighter, until the plan fits; if the search found nothing that fits, it is run again with a looser one, and what
it finds has to fit all the same.

In: a `Request`. Out: a `PlanRecord` whose memory is that of its programs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from planner.core.hardware import Cluster, Device
from planner.core.mixed import with_scaled_memory
from planner.core.plan import Baseline, PlanRecord
from planner.errors import MemoryLimitError
from planner.footprint import Emitted, memory_curves
from planner.known import Known
from planner.request import Request
from planner.search import Found, search
from planner.too_large import usable_bytes

ATTEMPTS = 4
"""Searches at most before a model is said not to fit. [chosen: one more is mostly enough]"""

LOOSER = 1.6
"""How much looser the limit is made where nothing fits: sums over layers were seen to be 1.48 times what XLA takes at
most, on small models on CPU. [chosen]"""

CLEAR = 0.98
"""A tightened limit is this part of what would be enough if the two figures kept their ratio. [chosen]"""


MEMORY = "memory of programs"
"""The phase of planning that this is."""


def plan_to_fit(request: Request, known: Known | None = None, *, hopes: bool = True) -> PlanRecord:
    """The best plan found whose programs fit.

    Args:
      request: what is asked.
      known: what searches for the request found out before; it learns from those made here.
      hopes: whether to look with a looser limit as well where parameters, their gradients and optimizer state alone are
        too large by what layers add up to. (A compiler may use a gradient before the next is made: of one microbatch.)

    Raises:
      MemoryLimitError: nothing fits, with the bytes missing.
      BatchError, PinError: impossible pins.
    """
    known = known or Known(request)
    try:
        first = search(request, known)
    except MemoryLimitError as too_large:
        found = loosened(request, known) if hopes or not are_too_large(request, known) else None
        if found is None:
            raise too_large from None
        return found
    record = _measured(request, first)
    if fits(record, request.cluster):
        return first.say(record)
    scale = _scale(record, first.record, request.cluster, 1.0)
    found, least = _tighter(request, known, scale, Seen(record, min(1.0, fullness(first.record, request.cluster))))
    if found is None:
        raise _missing(request, least)
    return found


def are_too_large(request: Request, known: Known) -> bool:
    """Whether parameters, their gradients and optimizer state alone are, by what layers add up to."""
    return known.held > usable_bytes(request.cluster)


def loosened(request: Request, known: Known) -> PlanRecord | None:
    """A plan that fits though its layers add up to more than devices have; None if none is found."""
    return _tighter(request, known, LOOSER, None)[0]


def _measured(request: Request, found: Found) -> PlanRecord:
    with request.phases.phase(MEMORY):
        return with_memory(found)


def with_memory(found: Found, emitted: Emitted | None = None) -> PlanRecord:
    """The record with the memory of its programs, stage by stage; `emitted` as `memory_curves` has it."""
    record = found.record
    curves = memory_curves(record, found.program, emitted)
    return replace(record, stages=tuple(replace(s, memory=curve.parts)
                                        for s, curve in zip(record.stages, curves, strict=True)))


def none_fits(recipes: Sequence[Baseline], device: Device) -> tuple[Baseline, ...]:
    """Recipes that were found for devices with more memory, none of which fits those at hand."""
    return tuple(Baseline(r.name, None, None, False, f"does not fit {device.memory_bytes / 1e9:.4g} GB per device")
                 for r in recipes)


def fits(record: PlanRecord, cluster: Cluster) -> bool:
    """Whether every stage leaves free what devices are to have free."""
    return fullness(record, cluster) <= 1


def fullness(record: PlanRecord, cluster: Cluster) -> float:
    """The peak of the fullest device, as a part of what a plan may use of it."""
    firsts = [record.stages[record.layout.rank_of.index(rank)].devices[0] for rank in range(record.layout.ranks)]
    return max(peak / cluster.kind_of(device).device.usable_bytes
               for peak, device in zip(record.rank_bytes, firsts, strict=True))


@dataclass(frozen=True)
class Seen:
    """A plan that does not fit, and what its layers add up to, as a part of the limit."""

    record: PlanRecord
    summed: float


def _tighter(request: Request, known: Known, scale: float, first: Seen | None) -> tuple[PlanRecord | None, int]:
    """Search under other limits, `scale` times the true one at first, until the plan fits: it, or None, and the least
    peak seen. Where a limit leaves the search nothing, the next is halfway back to that from which on the plan is one
    that was seen."""
    below, above, least = 0.0, first and first.summed, first.record.peak_bytes if first else 0
    for _ in range(ATTEMPTS):
        request.progress(f"memory: searching again with {scale:.0%} of the limit")
        try:
            found = search(replace(request, told=with_scaled_memory(request.cluster, scale)), known)
        except MemoryLimitError:
            if above is None:
                return None, least
            below, scale = scale, (scale + above) / 2
            continue
        record = _measured(request, found)
        record = replace(record, baselines=none_fits(record.baselines, request.cluster.device)) if first is None else \
            replace(record, baselines=first.record.baselines,
                    lower_bound_s=min(first.record.lower_bound_s, record.step_time_s))
        least = min(least or record.peak_bytes, record.peak_bytes)
        if fits(record, request.cluster):
            return found.say(record), least
        above = min(scale, fullness(found.record, request.cluster))
        scale = _scale(record, found.record, request.cluster, scale)
        if scale <= below:
            scale = (below + above) / 2
    return None, least


def _scale(exact: PlanRecord, summed: PlanRecord, cluster: Cluster, scale: float) -> float:
    """The limit, as a part of the true one, under which a plan is likely to fit: as much less as the plan takes too
    much, measured in what its layers add up to."""
    return min(scale, fullness(summed, cluster)) * CLEAR / fullness(exact, cluster)


def _missing(request: Request, need: int) -> MemoryLimitError:
    device = request.cluster.device
    missing = need - device.usable_bytes
    return MemoryLimitError(
        f"no plan found for {request.model_name!r} fits {request.cluster.described}: "
        f"the best takes {need / 1e9:.4g} GB per device, {missing / 1e9:.4g} GB "
        f"too much ({int(missing)} bytes; {device.memory_margin:.0%} are kept free)",
        "use more microbatches, allow recomputation, or use more devices", need)
