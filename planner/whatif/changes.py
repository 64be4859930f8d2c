"""What would help a plan: the model planned again for a machine, a batch or pins that differ in one thing.

Everything is chosen anew for each change, by a search of its own, so that what a change brings is all that it can
bring, under the cost model. Pins of the plan stay. Rewrites are not searched again: of the plan's own and none, what is
faster is taken.

In: a `PlanRecord` and its model. Out: `Answer`s, in order of the changes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from planner.api import request_for
from planner.cache.store import Cache
from planner.cache.workers import Workers
from planner.core.hardware import Cluster, Device, Link
from planner.core.mixed import in_every_part, with_scaled_memory
from planner.core.plan import PlanRecord
from planner.emit.match import matching_program
from planner.errors import PlannerError
from planner.joint.looking import with_rewrites
from planner.mixing import plan_any
from planner.model import Model
from planner.request import Request
from planner.whatif.pins import pins_of

MACHINE, BATCH, CHOICE = "machine", "batch", "choice"
"""What kind of thing a change is of."""


@dataclass(frozen=True)
class Change:
    """A change in words, what kind of thing it is of, and what is then planned."""

    text: str
    kind: str
    request: Request


@dataclass(frozen=True)
class Answer:
    """What a change brings.

    Attributes:
      change, kind: as in `Change`.
      step_time_s, microbatches, stages, peak_bytes: of the plan found; None where there is none.
      speedup: samples a second over the plan's.
      reason: why there is no plan.
    """

    change: str
    kind: str
    step_time_s: float | None = None
    speedup: float | None = None
    microbatches: int | None = None
    stages: int | None = None
    peak_bytes: int | None = None
    reason: str = ""


def what_if(record: PlanRecord, model: Model, larger: Model | None = None, *,
            progress: Callable[[str], None] = lambda _: None, cache: Cache | bool = True) -> tuple[Answer, ...]:
    """Plan again for each change; Ctrl-C returns the answers so far.

    Args:
      record: the plan.
      model: what it was made for.
      larger: the same with a batch twice as large; None: that is not asked.
      progress: called with a line of text now and then.
      cache: as in `planner.plan`.

    Raises:
      PlanMismatchError: the model is another than the plan's.
    """
    matching_program(record, model)
    found: list[Answer] = []
    try:
        with Workers(say=progress) as workers:
            for change in _changes(record, model, larger, partial(request_for, cache=cache, workers=workers)):
                progress(change.text)
                found.append(_answer(record, change))
    except KeyboardInterrupt:
        progress("interrupted: these are the answers so far")
    return tuple(found)


def _answer(record: PlanRecord, change: Change) -> Answer:
    plans, fault = list[PlanRecord](), PlannerError("", "")
    for request in _ways(record, change.request):
        try:
            plans.append(plan_any(request))
        except PlannerError as error:
            fault = error
    if not plans:
        return Answer(change.text, change.kind, reason=fault.what)
    plan = min(plans, key=lambda p: p.step_time_s)
    faster = (plan.batch_size / plan.step_time_s) / (record.batch_size / record.step_time_s)
    return Answer(change.text, change.kind, plan.step_time_s, faster, plan.microbatches, len(plan.stages),
                  plan.peak_bytes)


def _ways(record: PlanRecord, request: Request) -> Iterator[Request]:
    """The request without rewrites and with those of the plan; with these alone where they were asked for."""
    if not request.pins.rewrites:
        yield request
    if record.rewrites:
        yield with_rewrites(request, record.rewritings)


def _changes(record: PlanRecord, model: Model, larger: Model | None, asked: Callable[[Model, Cluster], Request]
             ) -> Iterator[Change]:
    pins = pins_of(record)
    request = replace(asked(model, record.cluster), pins=pins)
    for text, cluster in _machines(record.cluster):
        yield Change(text, MACHINE, replace(request, cluster=cluster))
    if larger is not None:
        more = asked(larger, record.cluster)
        yield Change("a batch twice as large", BATCH, replace(more, pins=pins))
    for text, changed in _choices(record):
        yield Change(text, CHOICE, replace(request, pins=replace(pins, **changed)))


def _machines(cluster: Cluster) -> Iterator[tuple[str, Cluster]]:
    for text, times in (("25 % more memory", 1.25), ("twice the memory", 2.0)):
        yield text, with_scaled_memory(cluster, times)
    if cluster.nodes > 1:
        between = None if cluster.between is None else _wider(cluster.between)
        wider = in_every_part(cluster, lambda c: replace(c, inter_node=_wider(c.inter_node)))
        yield "twice the bandwidth between nodes", replace(wider, between=between)
    if max(kind.devices_per_node for kind in cluster.kinds) > 1:
        yield "twice the bandwidth inside nodes", in_every_part(
            cluster, lambda c: replace(c, intra_node=_wider(c.intra_node)))
    yield "devices that compute twice as fast", in_every_part(cluster, lambda c: replace(c, device=_faster(c.device)))


def _wider(link: Link) -> Link:
    """The same link with twice the bandwidth; what was measured on it takes half as long a byte."""
    measured = tuple(replace(m, per_byte_s=m.per_byte_s / 2) for m in link.measured)
    return replace(link, bandwidth_bytes_per_s=2 * link.bandwidth_bytes_per_s, measured=measured)


def _faster(device: Device) -> Device:
    """The same device with twice the arithmetic and twice the bandwidth of its own memory."""
    return replace(
        device, peak_flops_per_s=tuple((dtype, 2 * rate) for dtype, rate in device.peak_flops_per_s),
        memory_bandwidth_bytes_per_s=2 * device.memory_bandwidth_bytes_per_s,
        matmuls=tuple(replace(g, flops_per_s=tuple(2 * r for r in g.flops_per_s)) for g in device.matmuls),
        caches=tuple(replace(c, bandwidth_bytes_per_s=2 * c.bandwidth_bytes_per_s) for c in device.caches),
        transcendentals_per_s=None if device.transcendentals_per_s is None else 2 * device.transcendentals_per_s)


def _choices(record: PlanRecord) -> Iterator[tuple[str, dict[str, int]]]:
    """Half and double the microbatches and the stages, and one stage; what the user pinned is left pinned."""
    pinned, count, stages = dict(record.pins), record.microbatches, len(record.stages)
    if record.kind == "step":
        return
    if "microbatches" not in pinned:
        for other in (count // 2, 2 * count):
            if other >= 1 and record.batch_size % other == 0:
                yield f"{other} microbatches instead of {count}", {"microbatches": other}
    if not {"stages", "boundaries", "mesh_axes", "chunks"} & set(pinned):
        for other in sorted({1, stages // 2, 2 * stages} - {0, stages}):
            if other <= min(record.device_count, len(record.layers)):
                yield f"{other} stage{'s' if other > 1 else ''} instead of {stages}", {"stages": other}
