"""The best plan of a model whose graph may be rewritten: planned as it is, rewritten where that pays on the meshes
found, planned again; the faster of the two is the plan, which is so never worse than without rewrites.

In: a `Request`. Out: a `PlanRecord` with the rewrites of its program.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from planner.core.alternative import REWRITE, Alternative
from planner.core.graph import Graph, Program
from planner.core.plan import Baseline, PlanRecord
from planner.core.rewriting import AppliedRewrite, Rewriting
from planner.errors import MemoryLimitError, PinError
from planner.joint.best_first import Found, Search, rules_named
from planner.joint.pricing import Pricing, one_device, places_of
from planner.joint.reduced import reduced
from planner.layers import Layers
from planner.phases import Phases
from planner.prepared import prepare
from planner.request import Remembered, Request
from planner.rewrites.table import Rule
from planner.rewriting.apply import steps
from planner.rewriting.program import rewritten
from planner.would_fit import plan_or_say

WAYS = (None, "none", "joint", "first")

SECONDS = 30.0
"""How long rewrites are looked for at most, unless a budget is given. [chosen: a minute with the two searches of a
GPT-2.6B]"""

TOLD = 8
"""Rewrites that were not taken, at most, that a plan tells of. [chosen]"""

WITHOUT = "without rewrites"
"""What the plan of the model as it was written is called beside the one that is rewritten."""


def plan_jointly(request: Request) -> PlanRecord:
    """The best plan found, of the model as it is or rewritten, as the pins say.

    Raises:
      PinError: no such way to rewrite.
      RewriteError, UnknownNameError: rewrites that are asked for do not apply, or there are no such rules.
      as `plan_or_say`.
    """
    pins = request.pins
    if pins.rewrite not in WAYS:
        raise PinError(f"rewrite={pins.rewrite!r}", f"use one of {', '.join(str(w) for w in WAYS if w)}")
    rules = rules_named(pins.allow, pins.forbid)
    if pins.rewrites:
        return _planned(request, tuple(Rewriting(*r) for r in pins.rewrites), ())
    base = plan_or_say(request)
    if pins.rewrite in (None, "none"):
        return base
    if request.cluster.parts:
        return replace(base, warnings=(*base.warnings, "rewrites are not searched on several types of devices"))
    deadline = time.perf_counter() + (SECONDS if request.budget_s is None else request.budget_s)
    asked = replace(request, phases=Phases())
    found = _found(asked, base, rules, deadline)
    looked = tuple(asked.phases.seconds.items())
    plain = replace(base, pruned=(*base.pruned, *_counts(found)), phases_s=_added(base.phases_s, looked),
                    alternatives=(*base.alternatives, *_not_taken(found, base)))
    if not found.rewrites:
        return plain
    try:
        best = _planned(request, tuple(r.rewriting for r in found.rewrites), found.rewrites)
    except (KeyboardInterrupt, MemoryLimitError):
        if pins.rewrite != "joint":
            raise
        request.progress("the rewritten model was not planned to the end: this is the plan without rewrites")
        return plain
    phases_s = _added(plain.phases_s, best.phases_s)
    if best.step_time_s >= base.step_time_s and pins.rewrite == "joint":
        return replace(plain, phases_s=phases_s)
    beside = Baseline(WITHOUT, base.step_time_s, base.peak_bytes, True,
                      f"{len(base.stages)} stages, {base.microbatches} microbatches")
    return replace(best, phases_s=phases_s,
                   alternatives=(*best.alternatives, *_not_taken(found, best)),
                   baselines=(*best.baselines, beside), pruned=(*best.pruned, *_counts(found)),
                   lower_bound_s=min(best.lower_bound_s, base.lower_bound_s))


def _added(*phases_s: Iterable[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """Seconds by phase, of several searches together."""
    found: dict[str, float] = {}
    for name, seconds in (p for each in phases_s for p in each):
        found[name] = found.get(name, 0.0) + seconds
    return tuple(found.items())


def _not_taken(found: Found, record: PlanRecord) -> tuple[Alternative, ...]:
    """Rewrites that were priced by themselves and are not in a plan, the best first."""
    taken, step_time_s = set(record.rewritings), record.step_time_s
    left = sorted((seconds, str(r)) for r, seconds in found.alone if r not in taken)
    return tuple(Alternative(REWRITE, name, step_time_s * seconds / found.before_s, None)
                 for seconds, name in left[:TOLD] if np.isfinite(seconds))


def _counts(found: Found) -> tuple[tuple[str, int], ...]:
    return (("rewritten graphs priced", found.priced), ("rewritten graphs left out by their bound", found.pruned))


def _found(request: Request, base: PlanRecord, rules: Sequence[Rule], deadline: float) -> Found:
    """The rewrites that pay on the meshes of a plan, or on one device."""
    with request.phases.phase("rewrites"):
        program = request.trace(base.microbatches, None)
        whole = reduced(program, layers_of(base))
        layers = prepare(whole.program, request.cluster.device).layers
        place = (one_device(request.cluster),) if request.pins.rewrite == "first" else places_of(base, request.pins)
        request.progress(f"rewrites: looking in {len(layers)} of {len(base.layers)} layers")
        search = Search(whole, layers, Pricing(request.cluster, request.pins, place), rules,
                        deadline, request.progress)
        return search.run()


def layers_of(record: PlanRecord) -> Layers:
    """The layers of a plan's program."""
    cuts = (0, *(layer.ops[1] for layer in record.layers))
    return Layers(cuts, tuple(layer.layer_class for layer in record.layers))


def _planned(request: Request, rewritings: Sequence[Rewriting], priced: Sequence[AppliedRewrite]) -> PlanRecord:
    """The plan of the rewritten model."""

    def trace(microbatches: int, update: Graph | None) -> Program:
        return rewritten(request.trace(microbatches, update), rewritings)

    record = plan_or_say(replace(request, trace=Remembered(trace)))
    gains_s = [r.gain_s for r in priced] or [0.0] * len(rewritings)
    program = request.trace(record.microbatches, None)
    return replace(record, rewrites=tuple(_told(program, rewritings, gains_s)))


def _told(program: Program, rewritings: Sequence[Rewriting], gains_s: Sequence[float]) -> Iterator[AppliedRewrite]:
    """What a plan says of its rewrites, of which so many seconds are known to be gained."""
    for gain_s, (rule, site, _) in zip(gains_s, steps(program.forward, rewritings), strict=True):
        yield AppliedRewrite(site.rewriting, rule.says, len(site.matches), gain_s, rule.rounding, rule.assumes)
