"""The outer loop: microbatch counts × meshes × slices -> the best plan, with the standard recipes priced beside it.

In: a function that traces the model for a microbatch count, a cluster, pins. Out: a `PlanRecord`. Interrupted or out of
budget, it returns the best plan so far.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from planner.alternatives import alternatives, look_at_meshes
from planner.candidates import Outcome, allowed, best_pipeline, line_schedules, refined
from planner.core.graph import Program
from planner.core.plan import PlanRecord
from planner.errors import PinError, RewriteError
from planner.ground import floor_s, ground_for, look_ahead, microbatch_counts, neighbours
from planner.intraop.compose import SliceTable
from planner.known import Known
from planner.pipelines.lines import lines
from planner.pipelines.pins import stages_per_rank
from planner.pipelines.pipeline import Candidate
from planner.pipelines.shapes import virtual_pipelines
from planner.prepared import Prepared
from planner.recipes import best_of_recipes
from planner.record import Run, plan_record, sighting
from planner.request import Request, check_pins
from planner.schedule_costs import schedule_costs
from planner.slice_costs import slice_costs
from planner.spaces import MeshSpace, SubmeshSpace
from planner.too_large import is_too_large, least_held, least_peak, too_large

NEAR = 1.05
"""Plans within this factor of the best may come to be the best when their stages are refined. [chosen: refinement gains
up to 6 % on GPT-2.6B]"""

CERTAIN = 2
"""Of the coarse numbers of microbatches, those after which the next is nearly always looked at. [chosen: of every model
planned for the benchmarks, three are]"""

OPEN = 2
"""Outcomes kept for refinement at a time: each keeps its tables, a gigabyte for the largest models. [chosen]"""


@dataclass(frozen=True)
class Found:
    """The best plan, the program that it is for; `say` adds what else is known of a plan that is taken."""

    record: PlanRecord
    program: Program
    say: Callable[[PlanRecord], PlanRecord] = lambda record: record


def search(request: Request, known: Known | None = None) -> Found:
    """Find the best plan whose memory fits as the sum of what its layers hold; `fitting.py` looks closer. `known`: by
    earlier searches for the same request, but for what it is `told` of memory; it learns from this one.

    Raises:
      MemoryLimitError: nothing fits, with the bytes missing.
      BatchError, PinError: impossible pins.
      RewriteError: there is no number of microbatches with which the rewrites apply.
    """
    check_pins(request)
    known, phase = known or Known(request), request.phases.phase
    run = _searched(request, known)
    if run.best is None:
        raise too_large(request, run) if run.tried or not run.refused else next(iter(run.refused.values()))
    with phase("trace"):
        prepared = known.programs.confirmed(run.best.prepared)
    if prepared is None:
        known.forget()
        run = _searched(request, known)
        assert run.best is not None
        prepared = known.programs.confirmed(run.best.prepared)
        assert prepared is not None
    best = replace(run.best, prepared=prepared)
    with phase("assemble"):
        return Found(plan_record(request, run, best), prepared.program, partial(_said, request, run, best))


def _said(request: Request, run: Run, best: Candidate, record: PlanRecord) -> PlanRecord:
    """The record with what other schedules and the nearest other plans would cost."""
    usable = min(kind.device.usable_bytes for kind in request.limits.kinds)
    with request.phases.phase("assemble"):
        return replace(record, schedules=schedule_costs(run, best, request.limits),
                       alternatives=alternatives(run, run.best or best, usable))


def _searched(request: Request, known: Known) -> Run:
    """What there is to know once all that is worth it was tried, or time is up."""
    run = Run()
    try:
        for attempt in _schedule(request, run, known):
            try:
                _try(request, run, known, attempt)
            except RewriteError as error:
                request.progress(f"{attempt.microbatches} microbatches: {error.what}")
                run.refused[attempt.microbatches] = error
            if time.perf_counter() > request.deadline and run.best is not None:
                break
    except KeyboardInterrupt:
        if run.best is None:
            raise
        request.progress("interrupted: returning the best plan so far")
    return run


@dataclass(frozen=True)
class _Attempt:
    """A number of microbatches to look at: for plans and recipes, or only for recipes; and one that will probably be
    looked at after it."""

    microbatches: int
    plans: bool = True
    then: int | None = None


def _schedule(request: Request, run: Run, known: Known) -> Iterator[_Attempt]:
    """Coarse counts first, from the most microbatches down as long as fewer may be of use, then the untried neighbours
    of the best until it no longer moves; before that as well, where fewer turn out slower, for the better the best,
    the sooner it is known that still fewer are of no use. What is open is refined whenever the best has to be known."""
    if request.kind == "step" or request.pins.microbatches is not None:
        yield _Attempt(1 if request.kind == "step" else request.pins.microbatches or 1)
        _refine(request, run)
        return
    counts, plans = microbatch_counts(request.batch_size), True
    coarse = counts[::2][::-1]
    following = dict(zip(coarse[:CERTAIN], coarse[1:], strict=False))
    for count in coarse:
        if count in run.tried:
            continue
        yield _Attempt(count, plans, following.get(count) if plans else None)
        if count in run.refused:
            continue
        if plans and run.best is not None and run.best.prepared.program.microbatches > count:
            yield from _settled(request, run, known, counts)
        plans = plans and not (_fewer_are_slower(run, count) or _fewer_are_too_large(run, count)
                               or is_too_large(request, run) or (request.is_told_of_more and _is_slower(run, count)))
        if not plans and not _has_a_recipe(run, count):
            break
    yield from _settled(request, run, known, counts)


def _settled(request: Request, run: Run, known: Known, counts: tuple[int, ...]) -> Iterator[_Attempt]:
    """The neighbours of the best, until it no longer moves."""
    while True:
        near = neighbours(run, counts)
        if near and run.open:
            look_ahead(request, known, near[0])
        _refine(request, run)
        if not (near := neighbours(run, counts)):
            break
        yield _Attempt(near[0])


def _fewer_are_slower(run: Run, microbatches: int) -> bool:
    """Whether no plan of that many microbatches can be as fast as one of more: fewer, larger ones hold more and wait
    longer for each other."""
    return run.best is not None and run.best.prepared.program.microbatches > microbatches and \
        floor_s(run, microbatches) >= run.best.step_time_s


def _is_slower(run: Run, microbatches: int) -> bool:
    """Whether what was found for that many is slower than for more. Searches that are told of more memory, of which
    there are many, end there: what they find has to fit in the memory that there is, which fewer make less likely."""
    return run.best is not None and run.tried[microbatches] > run.best.step_time_s * (1 + 1e-9) and \
        run.best.prepared.program.microbatches > microbatches


def _fewer_are_too_large(run: Run, microbatches: int) -> bool:
    """Whether no plan fits at all: none of that many does, nor of more, which hold less; fewer, larger ones hold no
    less."""
    more = [count for count in run.least_peaks if count > microbatches]
    return run.best is None and bool(more) and \
        all(run.least_peaks[count] <= run.least_peaks[microbatches] for count in more)


def _has_a_recipe(run: Run, microbatches: int) -> bool:
    """Whether some recipe is fastest with so many."""
    return any(c is not None and c.microbatches == microbatches for c in run.baselines.values())


def _try(request: Request, run: Run, known: Known, attempt: _Attempt) -> None:
    microbatches, phase = attempt.microbatches, request.phases.phase
    request.progress(f"{microbatches} microbatch{'es' if microbatches > 1 else ''}: tracing")
    ground = ground_for(request, known, microbatches)
    prepared, spaces, recipes = ground.prepared, ground.spaces, ground.recipes
    _check_layers(request, len(prepared.layers))
    request.progress(f"{microbatches} microbatches: {len(prepared.layers)} layers of {len(prepared.models)} kinds, "
                     f"{sum(len(s.meshes) for s in spaces)} meshes")
    with phase("shardings"):
        tables = known.tables(request, prepared, ground.meshes(plans=attempt.plans))
    if attempt.then is not None:
        look_ahead(request, known, attempt.then)
    if attempt.plans:
        _build(request, run, prepared, spaces, tables)
        run.least_peaks[microbatches] = least_peak(request, tables)
        run.held = known.held = max(known.held, least_held(prepared, tables))
    with phase("recipes"):
        for name, candidate in best_of_recipes(request, run, prepared, recipes, tables) if recipes else ():
            best = run.baselines.get(name)
            if candidate is not None and (best is None or candidate.step_time_s < best.step_time_s):
                run.baselines[name] = sighting(candidate)
            run.baselines.setdefault(name, None)
            if candidate is not None and stages_per_rank(request.pins) == 1:
                _keep(request, run, candidate)


def _build(request: Request, run: Run, prepared: Prepared, spaces: tuple[SubmeshSpace, ...],
           tables: dict[MeshSpace, SliceTable]) -> None:
    """The best pipelines of this number of microbatches: one stage per rank, then several where that may be faster."""
    microbatches, pins, phase = prepared.program.microbatches, request.pins, request.phases.phase
    names = line_schedules(request.kind, pins, request.cluster.device)
    fastest, costs = float("inf"), None
    if names:
        for line in lines(request.cluster):
            with phase("stages"):
                outcome = best_pipeline(prepared, request.limits, spaces, tables, pins, names, line=line)
            for candidate in outcome.candidates:
                _keep(request, run, candidate)
            look_at_meshes(run, outcome)
            if outcome.candidate is not None:
                _leave_open(run, outcome)
            fastest, costs = min(fastest, outcome.step_time_s), outcome.builder.costs
            run.floors[_floor_of(outcome)] = outcome.lower_bound_s
    if not request.cluster.parts and (not names or (len(names) > 1 and pins.chunks is None)):
        with phase("virtual stages"):
            costs = costs or slice_costs(prepared, request.limits, spaces, tables, (1,))
            to_beat_s = min(fastest, run.best.step_time_s if run.best else fastest)
            built = virtual_pipelines(costs, pins, allowed(prepared, pins), to_beat_s)
        for candidate in built.candidates:
            _keep(request, run, candidate)
            fastest = min(fastest, candidate.step_time_s)
        run.floors[microbatches, 2] = built.lower_bound_s
        run.shapes += built.left_out
        run.estimate(built.estimates)
    run.tried[microbatches] = fastest


def _floor_of(outcome: Outcome) -> tuple[int, int]:
    """Where `Run.floors` keeps the bound of an outcome."""
    builder = outcome.builder
    return builder.microbatches, 1 + 2 * lines(builder.costs.hardware).index(builder.columns.line)


def _leave_open(run: Run, outcome: Outcome) -> None:
    """Keep an outcome for refinement, out of the few that may come to be the best."""
    assert run.best is not None
    best_s = run.best.step_time_s
    some = [o for o in (*run.open, outcome) if o.candidate is not None and o.candidate.step_time_s < NEAR * best_s
            and o.lower_bound_s < best_s]
    run.open = sorted(some, key=lambda o: o.step_time_s)[:OPEN]


def _refine(request: Request, run: Run) -> None:
    """Refine what was left open, the fastest first, unless a rough answer will do."""
    while run.open and not request.rough:
        outcome = run.open.pop(0)
        microbatches = outcome.builder.microbatches
        request.progress(f"{microbatches} microbatches: refining stages that memory limits")
        with request.phases.phase("refinement"):
            better = refined(outcome, run.best.step_time_s if run.best else float("inf"))
        run.tried[microbatches] = min(run.tried[microbatches], better.step_time_s)
        run.floors[_floor_of(outcome)] = better.lower_bound_s
        for candidate in better.candidates:
            _keep(request, run, candidate)
        look_at_meshes(run, better)


def _check_layers(request: Request, layers: int) -> None:
    """Refuse pins that ask for more stages than there are layers, or for layers that are not there."""
    cuts, several = request.pins.boundaries or (), stages_per_rank(request.pins)
    fewest = request.pins.stages or (2 * several if several > 1 else 1)
    if fewest > layers:
        raise PinError(f"{fewest} stages of {request.model_name!r}, which has {layers} layers",
                       f"ask for at most {layers} stages")
    if cuts and cuts[-1] >= layers:
        raise PinError(f"stage boundary {cuts[-1]} of {request.model_name!r}, whose layers are 0 to {layers - 1}",
                       "give the first layer of each stage after the first")


def _keep(request: Request, run: Run, candidate: Candidate) -> None:
    run.note(candidate)
    if candidate.fits and (run.best is None or candidate.step_time_s < run.best.step_time_s * (1 - 1e-9)):
        run.best = candidate
        stages = len(candidate.stages)
        how = f"{stages} stages, {candidate.schedule}" if stages > 1 else "1 stage"
        request.progress(f"best so far: {candidate.step_time_s * 1e3:.4g} ms/step, {how}, "
                         f"{candidate.microbatches} microbatches")
