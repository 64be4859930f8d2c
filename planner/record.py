"""From what a search tried to the `PlanRecord` that is saved: stages, parameters, layers, operators, recipes beside it.

In: a `Request`, the `Run` of its search, the best `Candidate`. Out: a `PlanRecord`.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from planner.assemble import param_plans, stage_decisions, stage_plan
from planner.candidates import Outcome
from planner.core.alternative import Alternative
from planner.core.graph import Graph, Role
from planner.core.hardware import Device
from planner.core.plan import SCHEMA_VERSION, Baseline, LayerInfo, OpInfo, PlanRecord
from planner.costs.memory import value_bytes
from planner.errors import RewriteError
from planner.pipelines.pipeline import Candidate
from planner.prepared import Prepared
from planner.request import Request
from planner.rules import flops_by_op, graph_flops, warnings_of


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a search remembers of a candidate that it does not keep; `rank` as `Candidate.rank`."""

    rank: tuple[bool, float]
    stages: int
    microbatches: int
    schedule: str
    peak_bytes: float

    @property
    def step_time_s(self) -> float:
        return self.rank[1]


def sighting(candidate: Candidate) -> Sighting:
    """What is remembered of a candidate."""
    return Sighting(candidate.rank, len(candidate.stages), candidate.microbatches, candidate.schedule,
                    candidate.peak_bytes)


@dataclass
class Run:
    """State of one search: what was tried, the best so far, what refinement may make better. `tried` goes by microbatch
    count, `floors` (lower bounds) by that and whether ranks have one stage (odd: a number for each order of the parts
    of a mixed cluster) or several (2); `under` has the best pipeline by schedule, and `estimates` what those may take
    that were not built, of which there are `shapes`. `seen` has the best by microbatch count and by stage count,
    `least_peaks` the least memory of one stage by microbatch count, `refused` why rewrites don't apply to some of them,
    `held` what all devices hold for good at least, `meshes` what other meshes would cost the plan beside them
    (`alternatives.py`)."""

    best: Candidate | None = None
    baselines: dict[str, Sighting | None] = field(default_factory=dict[str, Sighting | None])
    open: list[Outcome] = field(default_factory=list[Outcome])
    tried: dict[int, float] = field(default_factory=dict[int, float])
    refused: dict[int, RewriteError] = field(default_factory=dict[int, RewriteError])
    floors: dict[tuple[int, int], float] = field(default_factory=dict[tuple[int, int], float])
    under: dict[str, Candidate] = field(default_factory=dict[str, Candidate])
    estimates: dict[str, float] = field(default_factory=dict[str, float])
    shapes: int = 0
    seen: dict[tuple[str, int], Sighting] = field(default_factory=dict[tuple[str, int], Sighting])
    least_peaks: dict[int, float] = field(default_factory=dict[int, float])
    held: float = 0.0
    meshes: tuple[Candidate, tuple[Alternative, ...]] | None = None

    @property
    def least_peak(self) -> float:
        """The least bytes of a device with which one stage runs, of all microbatch counts."""
        return min(self.least_peaks.values(), default=float("inf"))

    def note(self, candidate: Candidate) -> None:
        """Remember the best pipeline of its schedule: one that fits rather than one that does not. Likewise the best of
        its numbers of microbatches and stages, of which no more is kept than what is said of them."""
        for key in (("microbatches", candidate.microbatches), ("stages", len(candidate.stages))):
            seen = self.seen.get(key)
            if seen is None or candidate.rank < seen.rank:
                self.seen[key] = sighting(candidate)
        known = self.under.get(candidate.schedule)
        if len(candidate.stages) > 1 and (known is None or candidate.rank < known.rank):
            self.under[candidate.schedule] = candidate

    def estimate(self, found: Iterable[tuple[str, float]]) -> None:
        """Remember what pipelines that were not built may take, the least by schedule."""
        for schedule, seconds in found:
            self.estimates[schedule] = min(seconds, self.estimates.get(schedule, seconds))


def plan_record(request: Request, run: Run, best: Candidate) -> PlanRecord:
    """The saved form of the best candidate, with all that the search found out beside it."""
    prepared, program, layers = best.prepared, best.prepared.program, best.prepared.layers
    index = prepared.index
    decisions = [stage_decisions(index, layers, pick) for pick in best.stages]
    params = param_plans(program.micro, [(n, d) for n, stage in enumerate(decisions) for d in stage])
    stages = tuple(stage_plan(prepared, pick, n, stage, {p.value: p.spec for p in params if p.home == n})
                   for n, (pick, stage) in enumerate(zip(best.stages, decisions, strict=True)))
    kind = request.kind
    update = graph_flops(program.update) if program.update is not None else 0
    flops = flops_by_op(program.forward)
    floor = min([best.step_time_s, *run.floors.values()])
    return PlanRecord(
        SCHEMA_VERSION, request.version, request.model_name, kind, program.fingerprint, request.cluster,
        request.cluster.device_count, request.batch_size, program.microbatches, best.schedule, stages, params,
        _layer_infos(prepared, flops), _op_infos(prepared, flops), best.step_time_s, floor,
        prepared.micro_flops * program.microbatches + update, prepared.dtype,
        _baselines(request, run), request.pins.describe(),
        (("slowest-stage bounds skipped", best.pruned), ("slowest-stage bounds tried", best.tried),
         ("microbatch counts tried", len(run.tried)),
         *((("pipelines of several stages per rank not built", run.shapes),) if run.shapes else ())),
        tuple(request.phases.seconds.items()),
        (*program.warnings, *warnings_of(program.micro),
         *(line for kind in request.cluster.kinds for line in _slow_dtype(kind.device, prepared.dtype))))


def _slow_dtype(device: Device, dtype: str) -> tuple[str, ...]:
    """A warning where the device computes much faster in the other 16-bit dtype."""
    other = {"bfloat16": "float16", "float16": "bfloat16"}.get(dtype)
    if other is None or device.flops_per_s(other) < 2 * device.flops_per_s(dtype):
        return ()
    return (f"{device.name} computes {dtype} at {device.flops_per_s(dtype) / 1e12:.4g} TFLOP/s and {other} at "
            f"{device.flops_per_s(other) / 1e12:.4g}: a model in {other} would be faster",)


def _baselines(request: Request, run: Run) -> tuple[Baseline, ...]:
    capacity = request.cluster.device.memory_bytes
    found: list[Baseline] = []
    for name, seen in run.baselines.items():
        if seen is None:
            note = "needs at least 2 microbatches and 2 layers" if name == "even pipeline" and \
                max(run.tried) < 2 else f"does not fit {capacity / 1e9:.4g} GB per device"
            found.append(Baseline(name, None, None, False, note))
        else:
            b = seen.microbatches
            note = f"{seen.stages} stages, {b} microbatches" if seen.stages > 1 else \
                f"{b} microbatch{'es' if b > 1 else ''}"
            found.append(Baseline(name, seen.step_time_s, int(seen.peak_bytes), True, note))
    return tuple(found)


def _layer_infos(prepared: Prepared, flops: Sequence[int]) -> tuple[LayerInfo, ...]:
    program, layers, index = prepared.program, prepared.layers, prepared.index
    forward = program.forward
    params = [0] * len(layers)
    for given in program.micro.inputs_of(Role.PARAM):
        reader = index.first_reader.get(given.value, -1)
        if 0 <= reader < layers.cuts[-1]:
            params[bisect_right(layers.cuts, reader) - 1] += value_bytes(program.micro.values[given.value])
    found: list[LayerInfo] = []
    for n, ((first, last), kind) in enumerate(zip(layers.ranges, layers.classes, strict=True)):
        found.append(LayerInfo((first, last), kind, _name(forward, first, last), sum(flops[first:last]),
                               params[n], int(prepared.crossing_bytes[n + 1])))
    return tuple(found)


def _name(forward: Graph, first: int, last: int) -> str:
    """The function that most of the layer's operators come from, by their source lines."""
    votes: dict[str, int] = {}
    for op in forward.ops[first:last]:
        if "(" in op.source:
            where = op.source.rsplit("(", 1)[1].rstrip(")")
            votes[where] = votes.get(where, 0) + 1
    return max(votes, key=lambda k: (votes[k], k)) if votes else "layer"


def _op_infos(prepared: Prepared, flops: Sequence[int]) -> tuple[OpInfo, ...]:
    forward, layers = prepared.program.forward, prepared.layers
    makers = forward.producers
    found: list[OpInfo] = []
    for n, (first, last) in enumerate(layers.ranges):
        for at in range(first, last):
            op = forward.ops[at]
            reads = tuple(sorted({makers[v] for v in op.inputs if v in makers}))
            found.append(OpInfo(op.primitive, n, flops[at], reads, op.source))
    return tuple(found)
