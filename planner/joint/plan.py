"""The best plan of a model whose graph may be rewritten: planned as it is, rewritten where that pays on the meshes
found, planned again; the faster of the two is the plan, which is so never worse than without rewrites. Where the model
does not fit as it is, it is first rewritten so that it does.

In: a `Request`. Out: a `PlanRecord` with the rewrites of its program.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from math import inf, isinf

import numpy as np

from planner.core.alternative import REWRITE, WITHOUT, Alternative
from planner.core.plan import Baseline, PlanRecord
from planner.core.rewriting import Rewriting
from planner.errors import MemoryLimitError, PinError
from planner.joint.best_first import Found, Gain, rules_named
from planner.joint.looking import Task, added, counts, look, planned_with, with_rewrites
from planner.joint.making_fit import made_to_fit
from planner.joint.places import places_of
from planner.phases import Phases
from planner.request import Request
from planner.would_fit import plan_or_fail, with_changes

WAYS = (None, "none", "joint", "first")

SECONDS = 30.0
"""How long rewrites are looked for at most, unless a budget is given: then, as long as it leaves. [chosen: a minute
with the two searches of a GPT-2.6B]"""

TOLD = 8
"""Rewrites that were not taken, at most, that a plan tells of. [chosen]"""

NO_TIME = "no time was left to look for rewrites: a larger budget_s leaves some"
"""What a plan says then."""

ONLY_FITTED = "rewritten to fit"
"""What the plan with no more rewrites than make the model fit is called beside one with more."""


def plan_jointly_or_say(request: Request) -> PlanRecord:
    """The same as `plan_jointly`; where nothing fits, the error says which single changes would make it fit."""
    try:
        return plan_jointly(request)
    except MemoryLimitError as too_large:
        asked = with_rewrites(request, _pinned(request)) if request.pins.rewrites else request
        free = replace(request.pins, rewrite=None, allow=(), forbid=(), rewrites=())
        raise with_changes(replace(asked, pins=free), too_large) from None


def plan_jointly(request: Request) -> PlanRecord:
    """The best plan found, of the model as it is or rewritten, as the pins say.

    Raises:
      PinError: no such way to rewrite.
      RewriteError, UnknownNameError: rewrites that are asked for do not apply, or there are no such rules.
      MemoryLimitError: nothing fits, rewritten or not.
      as `plan_or_fail`.
    """
    pins = request.pins
    if pins.rewrite not in WAYS:
        raise PinError(f"rewrite={pins.rewrite!r}", f"use one of {', '.join(str(w) for w in WAYS if w)}")
    rules = rules_named(pins.allow, pins.forbid)
    if pins.rewrites:
        return planned_with(request, [Gain(r) for r in _pinned(request)])
    if pins.rewrite in (None, "none"):
        return plan_or_fail(request)
    began, seconds = time.perf_counter(), SECONDS if isinf(request.deadline) else inf
    base: PlanRecord | MemoryLimitError
    try:
        base = plan_or_fail(request)
    except MemoryLimitError as fault:
        base = fault
    task = Task(replace(request, phases=Phases()), rules, seconds, time.perf_counter() - began)
    if isinstance(base, MemoryLimitError):
        return _fitted(task, base)
    best = _improved(task, base)
    return _beside(best, base, WITHOUT) if best.rewrites else best


def _pinned(request: Request) -> list[Rewriting]:
    """The rewrites that are asked for."""
    return [Rewriting(*r) for r in request.pins.rewrites]


def _fitted(task: Task, too_large: MemoryLimitError) -> PlanRecord:
    """The best plan of the model rewritten, as it does not fit as it is: with what makes it fit, and what more pays."""
    request = task.request
    fit = made_to_fit(task, too_large)
    record = replace(fit.record, pruned=added(fit.record.pruned, *map(counts, fit.looked)),
                     phases_s=added(fit.record.phases_s, request.phases.seconds.items()))
    more = record
    if request.pins.rewrite == "joint" and task.left_s > 0:
        more = _with_more(task, record, fit.gains)
        more = more if more.rewrites == record.rewrites else _beside(more, record, ONLY_FITTED)
    beside = Baseline(WITHOUT, None, None, False, too_large.what)
    return replace(more, baselines=(*more.baselines, beside))


def _beside(best: PlanRecord, other: PlanRecord, name: str) -> PlanRecord:
    """A plan with another beside it."""
    note = f"{len(other.stages)} stages, {other.microbatches} microbatches"
    return replace(best, baselines=(*best.baselines, Baseline(name, other.step_time_s, other.peak_bytes, True, note)))


def _improved(task: Task, base: PlanRecord) -> PlanRecord:
    """A plan, or a faster one of the model rewritten."""
    request, joint = task.request, task.request.pins.rewrite == "joint"
    if task.left_s <= 0:
        return replace(base, warnings=(*base.warnings, NO_TIME))
    try:
        found = look(task, base)
    except KeyboardInterrupt:  # before the search, which keeps what it has found, was under way
        request.progress("interrupted: keeping the plan so far")
        return base
    looked = tuple(request.phases.seconds.items())
    plain = replace(base, pruned=added(base.pruned, counts(found)), phases_s=added(base.phases_s, looked),
                    alternatives=(*base.alternatives, *_not_taken(found, base)))
    if not found.rewrites:
        return plain
    try:
        best = planned_with(request, found.rewrites)
    except (KeyboardInterrupt, MemoryLimitError):
        if not joint:
            raise
        request.progress("the rewritten model was not planned to the end: keeping the plan so far")
        return plain
    phases_s = added(plain.phases_s, best.phases_s)
    if best.step_time_s >= base.step_time_s and joint:
        return replace(plain, phases_s=phases_s)
    best = replace(best, phases_s=phases_s, alternatives=(*best.alternatives, *_not_taken(found, best)),
                   pruned=added(best.pruned, counts(found)), lower_bound_s=min(best.lower_bound_s, base.lower_bound_s))
    is_moved = best.microbatches != base.microbatches or places_of(best, request.pins) != places_of(base, request.pins)
    return _with_more(task, best, found.rewrites) if joint and is_moved and task.left_s > 0 else best


def _with_more(task: Task, record: PlanRecord, gains: Sequence[Gain]) -> PlanRecord:
    """A plan of the model rewritten, or a faster one with more rewrites, that pay where it is run now."""
    rewritten = with_rewrites(task.request, [g.rewriting for g in gains])
    rest = replace(task, request=replace(rewritten, phases=Phases()), budget_s=task.left_s)
    more = _improved(rest, replace(record, rewrites=()))
    return replace(more, rewrites=(*record.rewrites, *more.rewrites))


def _not_taken(found: Found, record: PlanRecord) -> tuple[Alternative, ...]:
    """Rewrites that were priced by themselves and are not in a plan, the best first."""
    taken, step_time_s = set(record.rewritings), record.step_time_s
    left = sorted((price.seconds, str(r)) for r, price in found.alone if r not in taken and price.fits)
    return tuple(Alternative(REWRITE, name, step_time_s * seconds / found.before.seconds, None)
                 for seconds, name in left[:TOLD] if found.before.fits and np.isfinite(seconds))
