"""Plans that keep optimizer state or activations in host memory: where nothing fits without, or where asked for.

The search knows the devices' memory alone. Told of devices with more than there are, it finds plans that are too large;
of those, as much goes to the host as has to: optimizer state parameter by parameter, the largest first, until every
stage fits; or the activations of a pipeline's stages that don't; or both. (A plan of one stage keeps its activations:
one program that copies them out and in saves nothing, as XLA on an H200 fetches all at once: 14.6 GB became 31.1.) The
memory of what is left is that of the programs (`footprint/`), the time is the plan's and what the link to the host adds
(`host_times.py`). The fastest that fits is taken. Its lower bound is the looser search's: more memory and no transfers.
On a cluster of several types each stage has the host of its own type, and those whose way there is not known keep all.

In: a `Request`. Out: a `PlanRecord`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from planner.core.hardware import Cluster
from planner.core.mixed import in_every_part, with_scaled_memory
from planner.core.plan import DEVICE, HOST, ParamPlan, PlanRecord, StagePlan
from planner.costs.host import AT_LEAST_IN_FLIGHT
from planner.errors import MemoryLimitError, PinError
from planner.fitting import CLEAR, MEMORY, are_too_large, fullness, loosened, none_fits, plan_to_fit, with_memory
from planner.fitting import fits as fits_devices
from planner.footprint import Emitted
from planner.host_times import host_of, priced, weight, weights
from planner.known import Known
from planner.request import Request
from planner.search import Found, search

LOOSER = (1.1, 1.3, 1.5, 1.8, 3.0)
"""How much more memory the search is told of, one after the other. [chosen: Adam's moments are half of what a
mixed-precision parameter takes, so that a plan with twice the memory may fit without them; beyond, activations]"""

NEAR = 1.1
"""How full devices may be with all moved that can be, for less to be looked at. [chosen: optimizer state that visits
devices part by part takes room as well, so that with less of it away, slightly less may be held]"""

NONE, OPTIMIZER, ACTIVATIONS, AUTO = "none", "optimizer", "activations", "auto"


def plan_or_offload(request: Request) -> PlanRecord:
    """The best plan found whose programs fit; with host memory where the pin `offload` says so, or nothing else fits.

    Raises:
      MemoryLimitError: nothing fits, with the bytes missing.
      BatchError, PinError: impossible pins.
    """
    wanted, hosts = request.pins.offload, [kind for kind in request.cluster.kinds if kind.host is not None]
    known = Known(request)
    if wanted not in (None, NONE):
        _check_possible(request, wanted)
    if wanted in (OPTIMIZER, ACTIVATIONS):
        return _all_there(request, known, wanted)
    if wanted == NONE or not hosts or request.kind != "train":
        return plan_to_fit(request, known)
    plain, too_large = None, None
    try:
        plain = plan_to_fit(request, known, hopes=False)
        if wanted != AUTO:
            return plain
    except MemoryLimitError as fault:
        too_large = fault
    found = _offloaded(request, known, plain)
    if found is None and are_too_large(request, known):
        found = loosened(request, known)
    if found is None:
        assert too_large is not None
        raise too_large
    return found


def _check_possible(request: Request, wanted: str) -> None:
    """Raise `PinError` where nothing can go to the host's memory."""
    if request.kind != "train":
        raise PinError(f"offload={wanted!r} of {request.model_name!r}, which is not trained here",
                       "only optimizer state, and activations that wait for a backward, go to the host's memory")
    without, kinds = [kind for kind in request.cluster.kinds if kind.host is None], request.cluster.kinds
    if without and (wanted != AUTO or len(without) == len(kinds)):
        raise PinError(f"offload={wanted!r}: profile {without[0].name!r} says nothing of the way to host memory",
                       'give it a "host" part, or plan with offload="none"')


def _offloaded(request: Request, known: Known, plain: PlanRecord | None) -> PlanRecord | None:
    """The fastest plan found, with as little on the host as has to be; `plain`: one that fits without. How much memory
    to search with is found out by rough searches; what is found with the best of it is refined."""
    best, below, best_at = plain, 1.0, None
    rough = replace(request, rough=True)
    for scale in LOOSER:
        at: float | None = scale
        while at is not None:
            found = _looser(rough, known, at)
            if found is not None and best is not None and found.record.step_time_s >= best.step_time_s:
                if at == scale:
                    return _refined(request, known, best, best_at)
                break
            tried = [] if found is None else list(_until_one_fits(request, _moved(request, found)))
            better = _fastest(request, tried, best)
            if better is not best:
                best, best_at = better, at
            if best is not None and tried and min(fullness(r, request.cluster) for r in tried) > NEAR:
                return _refined(request, known, best, best_at)
            at = None if found is None or at != scale else _a_little_less(request, found, tried, below)
        below = scale
    return _refined(request, known, best, best_at)


def _until_one_fits(request: Request, records: Iterator[PlanRecord]) -> Iterator[PlanRecord]:
    for record in records:
        yield record
        if fits(record, request.cluster):
            return


def _fastest(request: Request, tried: Sequence[PlanRecord], best: PlanRecord | None) -> PlanRecord | None:
    """The fastest of the plans that fit, recipes beside it as beside the `best` so far, or that one."""
    for record in tried:
        if fits(record, request.cluster) and (best is None or record.step_time_s < best.step_time_s):
            best = record if best is None else replace(record, baselines=best.baselines)
    return best


def _refined(request: Request, known: Known, best: PlanRecord | None, at: float | None) -> PlanRecord | None:
    """The best plan, or a faster one: what was found with `at` times the memory, its stages refined."""
    found = None if at is None else _looser(request, known, at)
    return best if found is None else _fastest(request, list(_moved(request, found)), best)


def _a_little_less(request: Request, found: Found, tried: Sequence[PlanRecord], below: float) -> float | None:
    """Where a plan found nearly fits with all that can go on the host, how much memory to search with instead: as much
    less as it takes too much, if that is more than `below`."""
    over = min(fullness(record, request.cluster) for record in tried)
    less = fullness(found.record, request.cluster) * CLEAR / over
    return less if over > 1 and less > below and not any(fits(r, request.cluster) for r in tried) else None


def _looser(request: Request, known: Known, scale: float) -> Found | None:
    """The search's own answer for devices with that much more memory."""
    request.progress(f"host memory: searching with {scale:.0%} of the devices' memory")
    larger = in_every_part(request.cluster, lambda c: c if c.host is None else with_scaled_memory(c, scale))
    try:
        found = search(replace(request, told=larger), known)
        found = replace(found, record=found.say(found.record))
    except MemoryLimitError:
        return None
    if scale == 1:
        return found
    return replace(found, record=replace(found.record, baselines=none_fits(found.record.baselines,
                                                                           request.cluster.device)))


def _all_there(request: Request, known: Known, wanted: str) -> PlanRecord:
    """A plan with all optimizer state, or all activations, on the host."""
    best: PlanRecord | None = None
    first: PlanRecord | None = None
    for scale in (1.0, *LOOSER):
        found = _looser(request, known, scale)
        first = found.record if found is not None and scale == 1 else first
        if found is None or (best is not None and found.record.step_time_s >= best.step_time_s):
            continue
        record = _with_optimizer(found.record, lambda _: True) if wanted == OPTIMIZER else _with_activations(
            found.record, _may_wait)
        if wanted == ACTIVATIONS and not any(s.offload for s in record.stages):
            raise PinError(f"offload={wanted!r}: no stage of the plan found has {AT_LEAST_IN_FLIGHT} microbatches in "
                           "flight, and two are on the devices anyway", "ask for more stages and microbatches")
        record = priced(_Programs(request, found).measured(record))
        if fits(record, request.cluster) and (best is None or record.step_time_s < best.step_time_s):
            best = record if first is None else replace(record, baselines=first.baselines)
    if best is None:
        raise MemoryLimitError(f"no plan for {request.model_name!r} fits with offload={wanted!r}",
                               'allow both with offload="auto", use more microbatches, or use more devices')
    return best


def _moved(request: Request, found: Found) -> Iterator[PlanRecord]:
    """Plans made of one that may not fit, by moving optimizer state, activations, or both; where that is not enough,
    with all that can be moved, which is looked at first: of what is nowhere near fitting, nothing else is."""
    cluster, known = request.cluster, _Programs(request, found)
    record = known.measured(found.record)
    tight = {s.index for s in record.stages if _excess(record, s, cluster) > 0}
    away = {s for s in tight if _may_wait(record.stages[s]) and host_of(record, record.stages[s]) is not None
            and len(record.stages) > 1}
    waiting = _with_activations(record, lambda s: s.index in away)
    least = known.measured(_with_optimizer(waiting, lambda p: host_of(record, record.stages[p.home]) is not None))
    if fullness(least, cluster) > NEAR:
        yield priced(least)
        return
    yield priced(_with_enough(record, known, cluster))
    if away:
        yield priced(_with_enough(known.measured(waiting), known, cluster))


class _Programs:
    """The programs of a plan that was found, emitted once for all that may lie in host memory."""

    def __init__(self, request: Request, found: Found) -> None:
        self._phase, self._program = request.phases.phase, found.program
        with self._phase(MEMORY):
            self._emitted = Emitted(found.record, found.program)

    def measured(self, record: PlanRecord) -> PlanRecord:
        """The plan, with this and that in host memory, with the memory of its programs."""
        with self._phase(MEMORY):
            return with_memory(Found(record, self._program), self._emitted)


def _with_enough(record: PlanRecord, known: _Programs, cluster: Cluster) -> PlanRecord:
    """The plan with so much optimizer state on the host that stages fit, or with all of it: the largest first."""
    each = {s.index: s.memory.opt_state_bytes / (weights(record, s.index) or 1.0) for s in record.stages}
    left = {s.index: sorted((weight(record, p), p.value) for p in record.params if p.home == s.index)
            if host_of(record, s) is not None else [] for s in record.stages}
    gone: set[int] = set()
    while short := {s.index: over for s in record.stages if (over := _excess(record, s, cluster)) > 0
                    and left[s.index]}:
        for stage, over in short.items():
            freed = 0.0
            while left[stage] and freed < over:
                size, value = left[stage].pop()
                gone.add(value)
                freed += each[stage] * size
        record = known.measured(_with_optimizer(record, lambda p: p.value in gone))
    return record


def _with_optimizer(record: PlanRecord, moves: Callable[[ParamPlan], bool]) -> PlanRecord:
    """The plan with the optimizer state of some parameters on the host."""
    return replace(record, params=tuple(replace(p, opt_memory=HOST if moves(p) else DEVICE) for p in record.params))


def _with_activations(record: PlanRecord, moves: Callable[[StagePlan], bool]) -> PlanRecord:
    """The plan with the activations of all layers of some stages on the host."""
    return replace(record, stages=tuple(replace(s, offload=tuple(range(*s.layers)) if moves(s) else ())
                                        for s in record.stages))


def _may_wait(stage: StagePlan) -> bool:
    return stage.in_flight >= AT_LEAST_IN_FLIGHT


def _excess(record: PlanRecord, stage: StagePlan, cluster: Cluster) -> float:
    """Bytes that a stage's devices hold, for all of their stages, beyond what they may."""
    usable = cluster.kind_of(stage.devices[0]).device.usable_bytes
    return record.rank_bytes[record.layout.rank_of[stage.index]] - usable


def fits(record: PlanRecord, cluster: Cluster) -> bool:
    """Whether every stage leaves free what devices and hosts are to have free."""
    return fits_devices(record, cluster) and all(_has_room(record, s, cluster) for s in record.stages)


def _has_room(record: PlanRecord, stage: StagePlan, cluster: Cluster) -> bool:
    """Whether a host has room for what all devices of a node would keep there, if they kept as much as this stage's."""
    host, most = host_of(record, stage), stage.memory.host_bytes * cluster.kind_of(stage.devices[0]).devices_per_node
    return not most or (host is not None and most <= host.usable_bytes)
