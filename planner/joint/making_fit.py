"""A model that fits only rewritten: without a plan of its own to look for rewrites on, it is planned as if there were
more memory.

Where the stages are in that plan, rewrites are priced as if devices had so much less that the model lacks what it lacks
for real; the search for rewrites then goes by what is missing until nothing is. That is a model of memory, by sums over
layers, and not that of programs: the rewritten model has to be planned on the devices that there are. Where it needs
too much after all, rewrites are looked for once more under a limit as much tighter, and then each that frees memory is
tried alone.

In: a `Task`, the error of the model as it is. Out: a `PlanRecord` with rewrites, or the error with what was tried.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from planner.core.mixed import with_scaled_memory
from planner.core.plan import PlanRecord
from planner.core.rewriting import Rewriting
from planner.errors import MemoryLimitError, PinError
from planner.fitting import CLEAR, fullness, with_memory
from planner.joint.best_first import Found, Gain, freed
from planner.joint.looking import Task, look, planned_with
from planner.known import Known
from planner.mixing import moved_to, why_not_mixed
from planner.request import Request
from planner.search import search
from planner.would_fit import LARGER

TRIES = 6
"""Rewritten models planned at most. [chosen: the first mostly fits, or one of the first few by themselves]"""

LACKS = 1.01
"""What a model that does not fit needs at least, as a part of what devices have: plans that were seen may need less by
figures that are not those of their programs. [chosen]"""


@dataclass(frozen=True)
class Fitted:
    """A plan that fits rewritten, with which rewrites, and what the searches for them found out."""

    record: PlanRecord
    gains: tuple[Gain, ...]
    looked: tuple[Found, ...]


def made_to_fit(task: Task, too_large: MemoryLimitError) -> Fitted:
    """The best plan found of the model rewritten; `too_large`: why there is none of the model as it is.

    Raises:
      MemoryLimitError: it does not fit rewritten either; says what is missing without, and what was tried.
    """
    request = task.request
    request.progress("it does not fit as it is: looking for rewrites with which it does")
    with request.phases.phase("with more memory"):
        larger = _with_more_memory(request, too_large)
    if larger is None:
        raise _nor(too_large, "no plan was found with more memory either, on which rewrites could be priced")
    needs, usable = fullness(larger, request.cluster), request.cluster.device.usable_bytes
    if too_large.need_bytes is not None and not request.cluster.parts:
        needs = min(needs, too_large.need_bytes / usable)
    needs = max(needs, LACKS)
    looked = [look(task, larger, needs)]
    todo, tried = [looked[0].rewrites, *_alone(looked[0])], list[list[Rewriting]]()
    while todo and len(tried) < TRIES:
        gains = todo.pop(0)
        rewritings = [g.rewriting for g in gains]
        if not rewritings or rewritings in tried:
            continue
        tried.append(rewritings)
        request.progress(f"does it fit with {', '.join(map(str, rewritings))}?")
        try:
            return Fitted(planned_with(request, gains), gains, tuple(looked))
        except MemoryLimitError as still:
            if len(looked) == 1 and looked[0].after.fits and task.left_s > 0 and request.pins.rewrite != "first":
                needs *= max(1.0, (still.need_bytes or 0) / usable) / CLEAR
                looked.append(look(task, larger, needs))
                todo.insert(0, looked[1].rewrites)
    raise _nor(too_large, _in_words(looked, tried))


def _alone(found: Found) -> list[tuple[Gain, ...]]:
    """Those that free memory by themselves, the best first."""
    best = sorted(((price, str(r), r) for r, price in found.alone if price.missing_bytes < found.before.missing_bytes),
                  key=lambda each: each[:2])
    return [(Gain(r, 0.0, freed(found.before, price)),) for price, _, r in best]


def _with_more_memory(request: Request, too_large: MemoryLimitError) -> PlanRecord | None:
    """The plan that is found with the least more memory of those tried, with what its programs take. On several types
    of devices: one for several, else for one alone."""
    cluster, usable = request.cluster, request.cluster.device.usable_bytes
    free = replace(request, pins=replace(request.pins, replicas=None), rough=True)
    alone = [replace(free, cluster=part) for part in cluster.parts]
    asked = [(Known(r), r) for r in ([] if cluster.parts and why_not_mixed(free) else [free])] + \
        [(Known(r), r) for r in alone]
    for times in LARGER:
        scale = times * max(1.0, (too_large.need_bytes or 0) / usable)
        request.progress(f"rewrites: searching with {scale:.0%} of the devices' memory")
        for known, each in asked:
            try:
                found = search(replace(each, told=with_scaled_memory(each.cluster, scale)), known)
            except (MemoryLimitError, PinError):
                continue
            record = with_memory(found)
            return record if each is free else moved_to(record, cluster, cluster.parts.index(each.cluster))
    return None


def _in_words(looked: Sequence[Found], tried: Sequence[Sequence[Rewriting]]) -> str:
    """How far rewrites were looked for, and which of them a plan was made with."""
    more = "" if all(f.complete for f in looked) else " before time was up: a larger budget_s looks at more"
    best = f"; planned with {' and '.join(map(str, tried[0]))}" if tried else "; none frees memory"
    others = f", and with {len(tried) - 1} others" if len(tried) > 1 else ""
    return f"{sum(f.priced for f in looked)} rewritten graphs priced{more}{best}{others}"


def _nor(too_large: MemoryLimitError, why: str) -> MemoryLimitError:
    """The error, with what was tried."""
    return MemoryLimitError(f"{too_large.what}; nor does it fit rewritten ({why})", too_large.mend,
                            too_large.need_bytes)
