"""The outer loop: microbatch counts × meshes × slices -> the best plan, with the standard recipes priced beside it.

In: a function that traces the model for a microbatch count, a cluster, pins. Out: a `PlanRecord`. Interrupted or out of
budget, it returns the best plan so far.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from planner.assemble import param_plans, stage_decisions, stage_plan
from planner.candidates import MEMORY_MARGIN, Candidate, Prepared, best_pipeline, mesh_table, prepare
from planner.core.graph import Graph, Program, Role
from planner.core.hardware import Cluster, Submesh
from planner.core.pins import Pins
from planner.core.plan import SCHEMA_VERSION, Baseline, LayerInfo, OpInfo, PlanRecord
from planner.costs.memory import value_bytes
from planner.costs.topology import logical_mesh
from planner.errors import BatchError, MemoryLimitError, PinError, PlannerError
from planner.intraop.compose import SliceTable
from planner.rules import flops_of, graph_flops, warnings_of
from planner.schedules import SCHEDULES
from planner.spaces import MeshSpace, SubmeshSpace, mesh_spaces, recipe_uses

Progress = Callable[[str], None]

COARSE = 4
"""Ratio between microbatch counts tried first; the neighbours (by 2) of the best are tried after. [chosen]"""


@dataclass(frozen=True)
class Request:
    """What to plan: the model's identity, how to trace it, where, and what is fixed."""

    trace: Callable[[int], Program]
    model_name: str
    kind: str
    batch_size: int
    cluster: Cluster
    pins: Pins
    version: str
    budget_s: float | None = None
    progress: Progress = print


@dataclass
class _Run:
    """State of one search: what was tried, the best so far, seconds by phase."""

    best: Candidate | None = None
    baselines: dict[str, Candidate | None] = field(default_factory=dict)
    tried: dict[int, float] = field(default_factory=dict)
    floors: list[float] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)
    least_peak: float = float("inf")

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + time.perf_counter() - start


def search(request: Request) -> PlanRecord:
    """Find the best plan.

    Raises:
      MemoryLimitError: nothing fits, with the bytes missing.
      BatchError, PinError: impossible pins.
    """
    _check_pins(request)
    run = _Run()
    deadline = None if request.budget_s is None else time.perf_counter() + request.budget_s
    try:
        for microbatches in _schedule(request, run):
            _try(request, run, microbatches)
            if deadline is not None and time.perf_counter() > deadline and run.best is not None:
                break
    except KeyboardInterrupt:
        if run.best is None:
            raise
        request.progress("interrupted: returning the best plan so far")
    if run.best is None:
        raise _too_large(request, run)
    with run.phase("assemble"):
        return _record(request, run, run.best)


def microbatch_counts(batch_size: int) -> tuple[int, ...]:
    """Powers of two that divide the batch, ascending."""
    counts, n = [], 1
    while batch_size % n == 0 and n <= batch_size:
        counts.append(n)
        n *= 2
    return tuple(counts)


def _schedule(request: Request, run: _Run) -> Iterator[int]:
    """Coarse counts first, then the untried neighbours of the best until it no longer moves."""
    if request.kind == "step":
        yield 1
        return
    if request.pins.microbatches is not None:
        yield request.pins.microbatches
        return
    counts = microbatch_counts(request.batch_size)
    yield from counts[::2]
    while run.best is not None:
        at = counts.index(run.best.prepared.program.microbatches)
        near = [counts[i] for i in (at - 1, at + 1) if 0 <= i < len(counts) and counts[i] not in run.tried]
        if not near:
            return
        yield from near


def _try(request: Request, run: _Run, microbatches: int) -> None:
    request.progress(f"{microbatches} microbatch{'es' if microbatches > 1 else ''}: tracing")
    with run.phase("trace"):
        program = request.trace(microbatches)
    with run.phase("layers"):
        prepared = prepare(program)
    spaces = mesh_spaces(request.cluster, request.pins, single=request.kind == "step")
    tables: dict[MeshSpace, SliceTable] = {}
    request.progress(f"{microbatches} microbatches: {len(prepared.layers)} layers of {len(prepared.models)} kinds, "
                     f"{sum(len(s.meshes) for s in spaces)} meshes")

    def table(space: MeshSpace) -> SliceTable:
        if space not in tables:
            with run.phase("shardings"):
                tables[space] = mesh_table(prepared, space, request.cluster, request.pins)
        return tables[space]

    for submesh in spaces:
        for space in submesh.meshes:
            table(space)
    with run.phase("stages"):
        found = best_pipeline(prepared, request.cluster, spaces, tables, request.pins,
                              in_flight_all=request.pins.schedule == "gpipe")
    run.tried[microbatches] = found.step_time_s if found else float("inf")
    run.least_peak = min([run.least_peak, *(_least_peak(t, request) for t in tables.values())])
    if found is not None:
        run.floors.append(found.lower_bound_s)
        _keep(request, run, found)
    if _free(request.pins):
        for name, candidate in _recipes(request, prepared, table):
            known = run.baselines.get(name)
            if candidate is not None and (known is None or candidate.step_time_s < known.step_time_s):
                run.baselines[name] = candidate
            run.baselines.setdefault(name, None)
            if candidate is not None:
                _keep(request, run, candidate)


def _keep(request: Request, run: _Run, candidate: Candidate) -> None:
    if run.best is None or candidate.step_time_s < run.best.step_time_s * (1 - 1e-9):
        run.best = candidate
        stages = len(candidate.stages)
        request.progress(f"best so far: {candidate.step_time_s * 1e3:.4g} ms/step, {stages} stage{'s' if stages > 1 else ''}, "
                         f"{candidate.prepared.program.microbatches} microbatches")


def _free(pins: Pins) -> bool:
    """Whether the recipes are in the space searched (they are the user's own business once the mesh or tensors are
    pinned)."""
    return pins.recipe is None and pins.mesh_axes is None and not pins.params and not pins.activations \
        and pins.stages is None and pins.boundaries is None


def _recipes(request: Request, prepared: Prepared, table: Callable[[MeshSpace], SliceTable]
             ) -> Iterator[tuple[str, Candidate | None]]:
    """The standard recipes, priced by the same code on the same program."""
    whole = request.cluster
    count = whole.device_count
    if count == 1:
        return
    for name, recipe in (("data parallel", "data"), ("FSDP", "fsdp"), ("tensor parallel", "tensor")):
        yield name, _recipe(request, prepared, table, recipe, 1, count)
    if request.kind == "step":
        return
    stages = 2
    best: Candidate | None = None
    while stages <= min(count, len(prepared.layers)):
        if count % stages == 0 and stages <= prepared.program.microbatches:
            found = _recipe(request, prepared, table, "data", stages, count // stages)
            if found is not None and (best is None or found.step_time_s < best.step_time_s):
                best = found
        stages *= 2
    yield "even pipeline", best


def _recipe(request: Request, prepared: Prepared, table: Callable[[MeshSpace], SliceTable], recipe: str, stages: int,
            devices: int) -> Candidate | None:
    per_node = request.cluster.devices_per_node
    submesh = Submesh(1, devices) if devices <= per_node else Submesh(devices // per_node, per_node)
    shape = (devices,) if devices > 1 else ()
    names = ("data",) if devices > 1 and recipe != "tensor" else ("model",) if devices > 1 else ()
    mesh = logical_mesh(request.cluster, submesh, shape)
    space = MeshSpace(mesh, names, recipe_uses(recipe, names))
    count = len(prepared.layers)
    cuts = tuple(round(count * s / stages) for s in range(1, stages))
    pins = replace(request.pins, stages=stages, boundaries=cuts or None)
    spaces = (SubmeshSpace(submesh, (space,)),)
    return best_pipeline(prepared, request.cluster, spaces, {space: table(space)}, pins,
                         in_flight_all=request.pins.schedule == "gpipe")


def _least_peak(table: SliceTable, request: Request) -> float:
    """The least bytes per device with which the whole model in one stage runs, on this mesh."""
    last = len(table.layers) - 1
    return float(table.memory_bytes(1)[0, last].min()) if table.mesh.device_count == request.cluster.device_count \
        else float("inf")


def _too_large(request: Request, run: _Run) -> PlannerError:
    capacity = request.cluster.device.memory_bytes
    usable = capacity * (1 - MEMORY_MARGIN)
    missing = run.least_peak - usable
    where = f"{request.cluster.device_count} × {request.cluster.device.name} of {capacity / 1e9:.4g} GB"
    if run.least_peak == float("inf") or missing <= 0:
        return MemoryLimitError(f"no plan for {request.model_name!r} fits {where} under the pins given",
                                "drop a pin, use more devices, or allow recomputation")
    factor = run.least_peak / usable
    return MemoryLimitError(
        f"{request.model_name!r} needs at least {run.least_peak / 1e9:.4g} GB per device on {where}: "
        f"{missing / 1e9:.4g} GB per device are missing ({int(missing)} bytes; {MEMORY_MARGIN:.0%} are kept free)",
        f"use about {int(request.cluster.device_count * factor * 1.1) + 1} such devices, or devices of at least "
        f"{run.least_peak * 1.1 / 1e9:.4g} GB")


def _check_pins(request: Request) -> None:
    pins, batch = request.pins, request.batch_size
    b = pins.microbatches
    if b is not None and (b < 1 or batch % b):
        near = [n for n in range(1, batch + 1) if batch % n == 0]
        raise BatchError(f"{b} microbatches don't divide a batch of {batch}",
                         f"use one of {', '.join(map(str, sorted(near, key=lambda n: abs(n - b))[:4]))}")
    if pins.stages is not None and pins.stages < 1:
        raise PinError(f"{pins.stages} stages", "ask for at least one stage")
    if pins.boundaries is not None:
        cuts = pins.boundaries
        if list(cuts) != sorted(set(cuts)) or (cuts and cuts[0] < 1):
            raise PinError(f"stage boundaries {cuts} are not increasing positions after 0", "e.g. boundaries=(4, 8)")
        if pins.stages is not None and pins.stages != len(cuts) + 1:
            raise PinError(f"{pins.stages} stages contradict {len(cuts)} boundaries ({len(cuts) + 1} stages)",
                           "give one of the two, or make them agree")
    if request.kind == "step" and ((pins.stages or 1) > 1 or (b or 1) > 1):
        raise PinError("a train step written by the user runs as one stage with one microbatch",
                       "give the loss function and the optimizer separately to have it pipelined")
    if pins.schedule is not None:
        SCHEDULES[pins.schedule]


def _record(request: Request, run: _Run, best: Candidate) -> PlanRecord:
    prepared, program, layers = best.prepared, best.prepared.program, best.prepared.layers
    index = prepared.index
    decisions = [stage_decisions(index, layers, pick) for pick in best.stages]
    params = param_plans(program.micro, [(n, d) for n, stage in enumerate(decisions) for d in stage])
    stored = {p.value: p.spec for p in params}
    stages = tuple(stage_plan(index, layers, pick, n, stage, stored,
                              recompute_all=pick.table.multipliers.recompute[pick.variant])
                   for n, (pick, stage) in enumerate(zip(best.stages, decisions, strict=True)))
    kind = request.kind
    schedule = request.pins.schedule or ("1f1b" if kind == "train" else "forward-only")
    update = graph_flops(program.update) if program.update is not None else 0
    floor = min([best.step_time_s, *run.floors])
    return PlanRecord(
        SCHEMA_VERSION, request.version, request.model_name, kind, program.fingerprint, request.cluster,
        request.cluster.device_count, request.batch_size, program.microbatches, schedule, stages, params,
        _layer_infos(prepared), _op_infos(prepared), best.step_time_s, floor,
        graph_flops(program.micro) * program.microbatches + update, _baselines(request, run), request.pins.describe(),
        (("slowest-stage bounds skipped", best.pruned), ("slowest-stage bounds tried", best.tried),
         ("microbatch counts tried", len(run.tried))),
        tuple(run.phases.items()), (*program.warnings, *warnings_of(program.micro)))


def _baselines(request: Request, run: _Run) -> tuple[Baseline, ...]:
    capacity = request.cluster.device.memory_bytes
    found = []
    for name, candidate in run.baselines.items():
        if candidate is None:
            note = "needs at least 2 microbatches and 2 layers" if name == "even pipeline" and \
                request.batch_size < 2 else f"does not fit {capacity / 1e9:.4g} GB per device"
            found.append(Baseline(name, None, None, False, note))
        else:
            b = candidate.prepared.program.microbatches
            note = f"{len(candidate.stages)} stages, {b} microbatches" if len(candidate.stages) > 1 else \
                f"{b} microbatch{'es' if b > 1 else ''}"
            found.append(Baseline(name, candidate.step_time_s, int(candidate.peak_bytes), True, note))
    return tuple(found)


def _layer_infos(prepared: Prepared) -> tuple[LayerInfo, ...]:
    program, layers, index = prepared.program, prepared.layers, prepared.index
    forward = program.forward
    sizes = {i.value: value_bytes(program.micro.values[i.value]) for i in program.micro.inputs_of(Role.PARAM)}
    found = []
    for n, ((first, last), kind) in enumerate(zip(layers.ranges, layers.classes, strict=True)):
        flops = sum(flops_of(forward, op) for op in forward.ops[first:last])
        params = sum(size for v, size in sizes.items() if first <= index.first_reader.get(v, -1) < last)
        found.append(LayerInfo((first, last), kind, _name(forward, first, last), flops, params, int(prepared.crossing_bytes[n + 1])))
    return tuple(found)


def _name(forward: Graph, first: int, last: int) -> str:
    """The function that most of the layer's operators come from, by their source lines."""
    votes: dict[str, int] = {}
    for op in forward.ops[first:last]:
        if "(" in op.source:
            where = op.source.rsplit("(", 1)[1].rstrip(")")
            votes[where] = votes.get(where, 0) + 1
    return max(votes, key=lambda k: (votes[k], k)) if votes else "layer"


def _op_infos(prepared: Prepared) -> tuple[OpInfo, ...]:
    forward, layers = prepared.program.forward, prepared.layers
    makers = forward.producers()
    sources: dict[str, str] = {}
    found = []
    for n, (first, last) in enumerate(layers.ranges):
        for op in forward.ops[first:last]:
            reads = tuple(sorted({makers[v] for v in op.inputs if v in makers}))
            found.append(OpInfo(op.primitive, n, flops_of(forward, op), reads, sources.setdefault(op.source, op.source)))
    return tuple(found)


def recipe_names() -> Sequence[str]:
    """Recipes that can be pinned."""
    return ("data", "fsdp", "tensor", "megatron", "none")
