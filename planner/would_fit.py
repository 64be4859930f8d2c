"""When nothing fits: which single change would make it fit, found by planning with each alone.

A change is another request: a pin dropped or moved, moments of the optimizer in 16 bits, a smaller batch, larger
devices, more of them. Each is planned by the code that said no, until one plan fits (not the fastest: the search stops
at the first), cheapest change first: what costs nothing but a pin, then what costs numbers, then what costs money. A
change that comes in steps (microbatches, devices) is tried from the smallest, and the first that fits is told.

In: the `Request` that found no plan, and its error. Out: the same error, with the changes that work in it.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

from planner.core.graph import Graph, Program, Role
from planner.core.pins import Pins
from planner.core.plan import PlanRecord
from planner.core.recomputation import Recompute
from planner.errors import MemoryLimitError, PlannerError
from planner.garbage import seldom_collected
from planner.mixing import plan_any
from planner.offloading import AUTO, NONE, plan_or_offload
from planner.phases import Phases
from planner.request import Request

SECONDS = 20.0
"""After so long no further change is tried. [chosen: it is an error that the user waits for]"""

SHARDED = ("zero-1", "zero-2", "fsdp")
"""Recipes that hold less and less of what data parallelism holds on every device."""

BATCHES, NODES = (2, 4, 8, 16), (2, 4, 8, 16)
"""By how much batches are made smaller, and clusters larger."""

LARGER = (1.02, 1.1, 1.25, 1.6, 2.5)
"""Devices' memory tried, relative to the least that any plan was seen to need."""


@dataclass(frozen=True)
class Change:
    """A change in the user's words, and what is then planned."""

    text: str
    request: Request


def plan_or_say(request: Request) -> PlanRecord:
    """The best plan found whose programs fit.

    Raises:
      MemoryLimitError: nothing fits, with the bytes missing and the single changes that would make it fit.
      BatchError, PinError: impossible pins.
    """
    try:
        return plan_or_fail(request)
    except MemoryLimitError as too_large:
        raise with_changes(request, too_large) from None


def plan_or_fail(request: Request) -> PlanRecord:
    """The same without changes in the error."""
    request = replace(request, phases=Phases())
    with seldom_collected():
        return replace(plan_any(request), phases_s=tuple(request.phases.seconds.items()))


def with_changes(request: Request, too_large: MemoryLimitError) -> MemoryLimitError:
    """The error with the single changes that would make it fit; itself where none is found."""
    with seldom_collected():
        found = [] if request.cluster.parts else list(changes_that_fit(request, too_large))
    if not found:
        return too_large
    one = "this makes" if len(found) == 1 else "each of these alone makes"
    return MemoryLimitError(too_large.what, f"{one} it fit: {'; '.join(found)}", too_large.need_bytes)


def changes_that_fit(request: Request, too_large: MemoryLimitError) -> Iterator[str]:
    """The changes that work, in words with their numbers, cheapest first."""
    deadline = time.perf_counter() + SECONDS
    for steps in changes(request, too_large.need_bytes):
        for change in steps:
            if time.perf_counter() > deadline:
                return
            request.progress(f"would it fit with {change.text}?")
            try:
                record = plan_or_offload(_alone(change.request))
            except PlannerError:
                continue
            peak = max(s.memory.total_bytes for s in record.stages)
            yield f"{change.text} ({peak / 1e9:.3g} GB a device, {record.step_time_s:.3g} s a step or less)"
            break


def _alone(request: Request) -> Request:
    """The first plan that fits is enough, and host memory was tried already unless it is what changes."""
    return replace(_pinned(request, offload=request.pins.offload or NONE), deadline=float("-inf"))


def changes(request: Request, need_bytes: int | None = None) -> Iterator[Sequence[Change]]:
    """Every change by itself, cheapest first; those of one sequence are steps of the same."""
    yield from _dropped(request)
    yield _more_microbatches(request)
    if request.kind == "train":
        yield _low_moments(request)
        yield _smaller_batches(request)
    yield _larger_devices(request, need_bytes)
    yield [Change(f"{request.cluster.device_count * k} devices instead of {request.cluster.device_count}",
                  replace(request, cluster=replace(request.cluster, nodes=request.cluster.nodes * k))) for k in NODES]


def _dropped(request: Request) -> Iterator[Sequence[Change]]:
    """Without one of the pins, or with the next that holds less."""
    pins, free = request.pins, Pins()
    if pins.offload == NONE and request.cluster.host is not None and request.kind == "train":
        yield [Change(f"offload={AUTO!r} instead of {NONE!r}", _pinned(request, offload=AUTO))]
    if pins.recomputed is not None and pins.recomputed is not Recompute.ALL:
        yield [Change(f"recompute={str(way)!r}", _pinned(request, recompute=str(way)))
               for way in (Recompute.SELECTED, Recompute.ALL) if way is not pins.recomputed]
    if pins.recipe == "data" or pins.recipe in SHARDED:
        stronger = SHARDED[SHARDED.index(pins.recipe) + 1:] if pins.recipe in SHARDED else SHARDED
        yield [Change(f"recipe={recipe!r} instead of {pins.recipe!r}", _pinned(request, recipe=recipe))
               for recipe in stronger]
    for name in (f.name for f in fields(pins)):
        value = getattr(pins, name)
        if value == getattr(free, name) or name in ("microbatches", "params", "activations", "offload"):
            continue
        yield [Change(f"no pin {name}={value!r}", _pinned(request, **{name: getattr(free, name)}))]
    for name in ("params", "activations"):
        for pin in getattr(pins, name):
            yield [Change(f"no pin on {pin[0]!r}",
                          _pinned(request, **{name: tuple(p for p in getattr(pins, name) if p != pin)}))]


def _pinned(request: Request, **changed: object) -> Request:
    return replace(request, pins=replace(request.pins, **changed))  # type: ignore[arg-type]


def _more_microbatches(request: Request) -> Sequence[Change]:
    """A pinned count, doubled as often as the batch divides."""
    count, found = request.pins.microbatches, list[Change]()
    if count is None:
        return found
    more = 2 * count
    while more <= request.batch_size and request.batch_size % more == 0:
        found.append(Change(f"microbatches={more} instead of {count}", _pinned(request, microbatches=more)))
        more *= 2
    return found


def _low_moments(request: Request) -> Sequence[Change]:
    """Adam's first moments in bfloat16, as optax's `mu_dtype` keeps them."""

    def trace(microbatches: int, update: Graph | None) -> Program:
        program = request.trace(microbatches, update)
        if program.update is None:
            return program
        return replace(program, update=_with_low_moments(program.update), fingerprint="")

    known = request.trace(request.pins.microbatches or 1, None).update
    if known is None or _with_low_moments(known) == known:
        return []
    return [Change("the optimizer's first moments in bfloat16 (optax: mu_dtype=jnp.bfloat16)",
                   replace(request, trace=trace))]


def _with_low_moments(update: Graph) -> Graph:
    """The update with every float32 leaf of the state named `mu` stored in 16 bits."""
    values = list(update.values)
    ends = [(i.value, i.path) for i in update.inputs_of(Role.OPT_STATE)]
    ends += [(o.operand, o.path) for o in update.outputs_of(Role.OPT_STATE) if isinstance(o.operand, int)]
    for value, path in ends:
        if "mu" in path.split("/") and values[value].dtype == "float32":
            values[value] = replace(values[value], dtype="bfloat16")
    return replace(update, values=tuple(values))


def _smaller_batches(request: Request) -> Sequence[Change]:
    """A batch k times smaller; a microbatch of it is one of the whole batch cut into k times as many."""

    def cut(k: int) -> Request:
        def trace(microbatches: int, update: Graph | None) -> Program:
            return replace(request.trace(microbatches * k, update), microbatches=microbatches, fingerprint="")

        return replace(request, batch_size=request.batch_size // k, trace=trace)

    return [Change(f"a batch of {request.batch_size // k} instead of {request.batch_size}", cut(k)) for k in BATCHES
            if request.batch_size % k == 0]


def _larger_devices(request: Request, need_bytes: int | None) -> Sequence[Change]:
    """Devices with more memory, from the least that any plan was seen to need."""
    device = request.cluster.device
    least = max(need_bytes or 0, device.usable_bytes) / (1 - device.memory_margin)
    found: list[Change] = []
    for times in LARGER:
        larger = replace(device, memory_bytes=int(least * times))
        found.append(Change(f"devices of {least * times / 1e9:.3g} GB instead of {device.memory_bytes / 1e9:.3g}",
                            replace(request, cluster=replace(request.cluster, device=larger))))
    return found
