"""The best plan of a model whose graph may be rewritten: planned as it is, rewritten where that pays on the meshes
found, planned again; the faster of the two is the plan, which is so never worse than without rewrites. Where the model
does not fit as it is, it is first rewritten so that it does.

In: a `Request`. Out: a `PlanRecord` with the rewrites of its program.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from planner.core.alternative import REWRITE, WITHOUT, Alternative
from planner.core.plan import Baseline, PlanRecord
from planner.core.rewriting import Rewriting
from planner.errors import MemoryLimitError, PinError
from planner.joint.best_first import Found, Gain, rules_named
from planner.joint.looking import Task, added, counts, look, planned_with, with_rewrites
from planner.joint.making_fit import made_to_fit
from planner.phases import Phases
from planner.request import Request
from planner.would_fit import plan_or_fail, plan_or_say

WAYS = (None, "none", "joint", "first")

SECONDS = 30.0
"""How long rewrites are looked for at most, unless a budget is given. [chosen: a minute with the two searches of a
GPT-2.6B]"""

TOLD = 8
"""Rewrites that were not taken, at most, that a plan tells of. [chosen]"""

AGAIN = "rewritten once"
"""What such a plan is called while more rewrites are looked for where it runs."""

ONLY_FITTED = "rewritten to fit"
"""What the plan with no more rewrites than make the model fit is called beside one with more."""


def plan_jointly(request: Request) -> PlanRecord:
    """The best plan found, of the model as it is or rewritten, as the pins say.

    Raises:
      PinError: no such way to rewrite.
      RewriteError, UnknownNameError: rewrites that are asked for do not apply, or there are no such rules.
      MemoryLimitError: nothing fits, rewritten or not.
      as `plan_or_say`.
    """
    pins = request.pins
    if pins.rewrite not in WAYS:
        raise PinError(f"rewrite={pins.rewrite!r}", f"use one of {', '.join(str(w) for w in WAYS if w)}")
    rules = rules_named(pins.allow, pins.forbid)
    if pins.rewrites:
        return planned_with(request, [Gain(Rewriting(*r)) for r in pins.rewrites], plan_or_say)
    if pins.rewrite in (None, "none"):
        return plan_or_say(request)
    too_large = None
    try:
        base = plan_or_fail(request)
    except MemoryLimitError as fault:
        base, too_large = None, fault
    seconds = SECONDS if request.budget_s is None else request.budget_s
    task = Task(replace(request, phases=Phases()), rules, seconds)
    if base is not None:
        return _improved(task, base, WITHOUT)
    assert too_large is not None
    return _fitted(task, too_large)


def _fitted(task: Task, too_large: MemoryLimitError) -> PlanRecord:
    """The best plan of the model rewritten, as it does not fit as it is: with what makes it fit, and what more pays."""
    request = task.request
    fit = made_to_fit(task, too_large)
    record = replace(fit.record, pruned=added(fit.record.pruned, *map(counts, fit.looked)),
                     phases_s=added(fit.record.phases_s, request.phases.seconds.items()))
    more = record
    if request.pins.rewrite == "joint" and task.left_s > 0:
        more = _with_more(task, record, fit.gains, ONLY_FITTED)
    beside = Baseline(WITHOUT, None, None, False, too_large.what)
    return replace(more, baselines=(*more.baselines, beside))


def _improved(task: Task, base: PlanRecord, name: str) -> PlanRecord:
    """A plan, or a faster one of the model rewritten, beside which the first is called by a name."""
    request, joint = task.request, task.request.pins.rewrite == "joint"
    try:
        found = look(task, base)
    except KeyboardInterrupt:  # before the search, which keeps what it has found, was under way
        request.progress(f"interrupted: this is the plan {name}")
        return base
    looked = tuple(request.phases.seconds.items())
    plain = replace(base, pruned=added(base.pruned, counts(found)), phases_s=added(base.phases_s, looked),
                    alternatives=(*base.alternatives, *_not_taken(found, base)))
    if not found.rewrites:
        return plain
    try:
        best = planned_with(request, found.rewrites, plan_or_fail if joint else plan_or_say)
    except (KeyboardInterrupt, MemoryLimitError):
        if not joint:
            raise
        request.progress(f"the rewritten model was not planned to the end: this is the plan {name}")
        return plain
    phases_s = added(plain.phases_s, best.phases_s)
    if best.step_time_s >= base.step_time_s and joint:
        return replace(plain, phases_s=phases_s)
    beside = Baseline(name, base.step_time_s, base.peak_bytes, True,
                      f"{len(base.stages)} stages, {base.microbatches} microbatches")
    best = replace(best, phases_s=phases_s, alternatives=(*best.alternatives, *_not_taken(found, best)),
                   pruned=added(best.pruned, counts(found)), lower_bound_s=min(best.lower_bound_s, base.lower_bound_s))
    if joint and task.left_s > 0 and _lie(best) != _lie(base):
        best = _with_more(task, best, found.rewrites, AGAIN)
    return replace(best, baselines=(*(b for b in best.baselines if b.name != AGAIN), beside))


def _with_more(task: Task, record: PlanRecord, gains: Sequence[Gain], name: str) -> PlanRecord:
    """A plan of the model rewritten, or a faster one with more rewrites, that pay where it is run now."""
    rest = Task(replace(with_rewrites(task.request, gains), phases=Phases()), task.rules, task.left_s)
    more = _improved(rest, replace(record, rewrites=()), name)
    return replace(more, rewrites=(*record.rewrites, *more.rewrites))


def _lie(record: PlanRecord) -> tuple[int, list[tuple[int, tuple[int, ...], int]]]:
    """Where a plan runs, as far as the prices of rewrites depend on it."""
    return record.microbatches, [(len(s.devices), s.mesh_shape, s.in_flight) for s in record.stages]


def _not_taken(found: Found, record: PlanRecord) -> tuple[Alternative, ...]:
    """Rewrites that were priced by themselves and are not in a plan, the best first."""
    taken, step_time_s = set(record.rewritings), record.step_time_s
    left = sorted((price.seconds, str(r)) for r, price in found.alone if r not in taken and price.fits)
    return tuple(Alternative(REWRITE, name, step_time_s * seconds / found.before.seconds, None)
                 for seconds, name in left[:TOLD] if found.before.fits and np.isfinite(seconds))
