"""Rewrites looked for on the places of a plan, and the plan of the model with those that were found.

In: a `Request`, a plan. Out: `Found`; a `PlanRecord` with the rewrites of its program.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from planner.core.graph import Graph, Program
from planner.core.plan import PlanRecord
from planner.core.rewriting import AppliedRewrite, Rewriting
from planner.garbage import seldom_collected
from planner.joint.best_first import Found, Gain, Search
from planner.joint.places import one_device, places_of
from planner.joint.pricing import Pricing
from planner.joint.reduced import reduced
from planner.layers import Layers, cluster_layers
from planner.prepared import Work
from planner.program_index import index_program
from planner.request import Remembered, Request
from planner.rewrites.table import Rule
from planner.rewriting.apply import steps
from planner.rewriting.program import rewritten
from planner.would_fit import plan_or_fail

Amount = TypeVar("Amount", int, float)

PHASE = "rewrites"
"""The phase of planning that looking for them is."""


@dataclass(frozen=True)
class Task:
    """What may be rewritten by which rules, and for how many seconds rewrites are looked for; planning is no part.

    Attributes:
      planning_s: what planning the rewritten model will take, about: as much is left for it before the deadline.
    """

    request: Request
    rules: Sequence[Rule]
    budget_s: float
    planning_s: float

    @property
    def left_s(self) -> float:
        """Of the budget; half of what is left before the deadline where that is less than planning takes twice."""
        left_s = self.request.deadline - time.perf_counter()
        own_s = self.budget_s - self.request.phases.seconds.get(PHASE, 0.0)
        return min(own_s, max(left_s / 2, left_s - self.planning_s))


def look(task: Task, base: PlanRecord, fullness: float | None = None) -> Found:
    """The rewrites that pay on the meshes of a plan, or on one device. `fullness`: what the plan needs of a device's
    memory, as a part of what may be used, where that is too much: then those with which it is less."""
    request, deadline = task.request, time.perf_counter() + task.left_s
    with request.phases.phase(PHASE), seldom_collected():
        program, cluster = request.trace(base.microbatches, None), request.cluster
        whole, layers = reduced(program, layers_of(base), lambda p: cluster_layers(index_program(p)))
        first = request.pins.rewrite == "first"
        pricing = Pricing(cluster.device, request.pins,
                          (one_device(cluster),) if first else places_of(base, request.pins), Work.of(whole.program))
        if fullness is not None and not first:
            pricing = pricing.where_it_lacks(fullness, whole.program, whole)
        pricing = pricing.on_near_meshes(whole.program, whole)
        request.progress(f"rewrites: looking in {len(layers)} of {len(base.layers)} layers")
        return Search(whole, layers, pricing, task.rules, deadline, request.progress).run()


def layers_of(record: PlanRecord) -> Layers:
    """The layers of a plan's program."""
    cuts = (0, *(layer.ops[1] for layer in record.layers))
    return Layers(cuts, tuple(layer.layer_class for layer in record.layers))


def with_rewrites(request: Request, rewritings: Sequence[Rewriting]) -> Request:
    """The same request of the rewritten model."""

    def trace(microbatches: int, update: Graph | None) -> Program:
        return rewritten(request.trace(microbatches, update), rewritings)

    return replace(request, trace=Remembered(trace))


def planned_with(request: Request, gains: Sequence[Gain]) -> PlanRecord:
    """The plan of the rewritten model.

    Raises:
      RewriteError, UnknownNameError: a rewrite does not apply.
      as `plan_or_fail`.
    """
    record = plan_or_fail(with_rewrites(request, [g.rewriting for g in gains]))
    program = request.trace(record.microbatches, None)
    return replace(record, rewrites=tuple(_told(program, gains)))


def _told(program: Program, gains: Sequence[Gain]) -> Iterator[AppliedRewrite]:
    """What a plan says of its rewrites, with the places that the whole program has."""
    for gain, (rule, site, _) in zip(gains, steps(program.forward, [g.rewriting for g in gains]), strict=True):
        yield AppliedRewrite(site.rewriting, rule.says, len(site.matches), gain.seconds, rule.rounding, rule.assumes,
                             gain.frees_bytes)


def counts(found: Found) -> tuple[tuple[str, int], ...]:
    """What a plan says of how much was looked at."""
    return (("rewritten graphs priced", found.priced), ("rewritten graphs left out by their bound", found.pruned))


def added(*pairs: Iterable[tuple[str, Amount]]) -> tuple[tuple[str, Amount], ...]:
    """Amounts by name, of several searches together."""
    found: dict[str, Amount] = {}
    for name, amount in (p for each in pairs for p in each):
        found[name] = found[name] + amount if name in found else amount
    return tuple(found.items())
