"""Plans for clusters of different devices: the best that uses several parts, or the best on one part alone.

A pipeline over several parts is found by the same search as any other (`pipelines/lines.py`), replicas of a pipeline,
one on each part with its share of the batch, out of plans for the parts (`shares.py`). Beside them, every part is
planned for by itself, with all that such plans may have and pipelines of several parts have not: one stage on all
devices, several stages per rank. So the plan is never worse than the best on one part; the others are shown beside it.

In: a `Request` for a mixed cluster. Out: a `PlanRecord` for that cluster, of which some devices may be idle.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from planner.core.hardware import Cluster
from planner.core.plan import Baseline, PlanRecord
from planner.errors import MemoryLimitError, PinError, PlannerError
from planner.offloading import plan_or_offload
from planner.pipelines.pins import stages_per_rank
from planner.request import Request, check_replicas
from planner.shares import shared

SEVERAL = "several types"
"""What pipelines over several types are called beside a plan."""

SHARED = "batch shares"
"""What replicas on several types are called beside a plan."""

NOT_SEARCHED = "over several types of devices, pipelines of several stages per rank were not searched"
"""What a plan says of what it may lack."""


@dataclass(frozen=True)
class Attempt:
    """Where a plan was looked for, and it or why there is none."""

    name: str
    found: PlanRecord | PlannerError


def plan_any(request: Request) -> PlanRecord:
    """The best plan found whose programs fit, on equal devices or on different ones.

    Raises:
      MemoryLimitError: nothing fits, with the bytes missing.
      BatchError, PinError: impossible pins.
    """
    return plan_mixed(request) if request.cluster.parts else plan_or_offload(request)


def plan_mixed(request: Request) -> PlanRecord:
    """The same for a mixed cluster."""
    check_replicas(request)
    attempts = list(_attempts(request))
    several = (request.pins.replicas or 1) > 1
    plans = [(a.name, a.found) for a in attempts if isinstance(a.found, PlanRecord) and
             (a.name == SHARED or not several)]
    if not plans:
        faults = [a.found for a in attempts if isinstance(a.found, PlannerError) and
                  (a.name == SHARED or not several)]
        raise next((f for f in faults if isinstance(f, MemoryLimitError)), faults[0])
    name, best = min(plans, key=lambda p: p[1].step_time_s)
    floor = min(record.lower_bound_s for _, record in plans)
    others = tuple(_beside(a) for a in attempts if a.name != name)
    left_out = (NOT_SEARCHED,) if request.kind == "train" and request.pins.schedule is None else ()
    return replace(best, baselines=others, pins=request.pins.describe(), lower_bound_s=min(floor, best.step_time_s),
                   warnings=(*best.warnings, *left_out))


def _attempts(request: Request) -> Iterator[Attempt]:
    cluster, wanted = request.cluster, request.pins.replicas
    request = replace(request, pins=replace(request.pins, replicas=None))
    why_not, known = why_not_mixed(request), list[PlanRecord]()
    if why_not is None:
        request.progress(f"{cluster.name}: pipelines over several of its parts")
        several = _or_why(plan_or_offload, request)
        known += [several] if isinstance(several, PlanRecord) else []
        yield Attempt(SEVERAL, several)
    alone: list[tuple[int, PlanRecord]] = []
    for n, part in enumerate(cluster.parts):
        request.progress(f"{cluster.name}: {part.described} alone")
        found = _or_why(plan_or_offload, replace(request, cluster=part))
        alone += [(n, found)] if isinstance(found, PlanRecord) else []
        yield Attempt(f"{part.name} alone", found if isinstance(found, PlannerError) else moved_to(found, cluster, n))
    if wanted != 1:
        to_beat_s = min((r.step_time_s for r in (*known, *(r for _, r in alone))), default=float("inf"))
        asked = replace(request, pins=replace(request.pins, replicas=wanted))
        yield Attempt(SHARED, shared(asked, alone, float("inf") if wanted else to_beat_s))
    if why_not is not None:
        yield Attempt(SEVERAL, PinError(why_not))


def why_not_mixed(request: Request) -> str | None:
    """Why a pipeline over several parts is impossible; each part alone is in any case."""
    pins = request.pins
    if request.kind == "step":
        return "a train step written by the user is one stage"
    if pins.stages == 1 or pins.boundaries == ():
        return "one stage lies in one type of devices"
    return None if stages_per_rank(pins) == 1 else "several stages per rank are not built over several types"


def _or_why(plan: Callable[[Request], PlanRecord], request: Request) -> PlanRecord | PlannerError:
    try:
        return plan(request)
    except (MemoryLimitError, PinError) as error:
        return error


def moved_to(record: PlanRecord, cluster: Cluster, part: int) -> PlanRecord:
    """A plan for a part of a cluster as one for the cluster, whose other devices are idle."""
    first = cluster.first_of(part)
    stages = tuple(replace(s, devices=tuple(first + d for d in s.devices)) for s in record.stages)
    return replace(record, cluster=cluster, device_count=cluster.device_count, stages=stages)


def _beside(attempt: Attempt) -> Baseline:
    found = attempt.found
    if isinstance(found, PlannerError):
        return Baseline(attempt.name, None, None, False, found.what)
    stages = f"{len(found.stages)} stage{'s' if len(found.stages) > 1 else ''}"
    count = found.microbatches
    if found.replicas:
        shares = " + ".join(str(r.microbatches) for r in found.replicas)
        return Baseline(attempt.name, found.step_time_s, found.peak_bytes, True, f"{stages}, {shares} microbatches")
    return Baseline(attempt.name, found.step_time_s, found.peak_bytes, True,
                    f"{stages}, {count} microbatch{'es' if count > 1 else ''}")
