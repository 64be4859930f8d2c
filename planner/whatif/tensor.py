"""Why a tensor has its sharding: what each other sharding of it would cost, by the search that chose this one.

The tensor is pinned to each sharding that its stage's mesh allows, in all layers of the stage that are like its own,
and the shardings of everything else in the stage are chosen anew, with what is recomputed; layers, devices and mesh of
all stages stay, and so do the other stages. The chosen sharding is priced in the same way, so that only the tensor
differs.

In: a `PlanRecord`, the model, the tensor's name. Out: `Why`, whose rows say what each sharding costs, and why.
"""

import glob
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import product

from planner.assemble import StagePick, stage_decisions, stage_plan
from planner.core.graph import Role
from planner.core.hardware import Submesh
from planner.core.pins import Pins
from planner.core.plan import ParamPlan, PlanRecord, StagePlan
from planner.core.spec import Spec, is_legal, to_text
from planner.costs.topology import logical_mesh
from planner.emit.match import matching_program
from planner.errors import PlannerError, UnknownNameError
from planner.intraop.repeats import renamed
from planner.intraop.slice_choice import table_choice
from planner.mesh_tables import mesh_table
from planner.model import Model
from planner.pipelines.stages import pipeline_time_s
from planner.prepared import Prepared, prepare
from planner.report import breakdown
from planner.report.causes import Cause, stage_causes
from planner.spaces import MeshSpace, recipe_uses
from planner.whatif.pins import pins_of


@dataclass(frozen=True)
class Way:
    """One sharding of the tensor.

    Attributes:
      spec: in words.
      chosen: whether it is the plan's.
      step_time_s: of the plan with it; None where the stage does not fit then.
      causes_s: what it adds to the chosen one's on the stage's devices, seconds a step by cause, where there is any.
      peak_bytes: of a device of the stage, as the sum of what its layers hold.
      missing_bytes: where it does not fit, by how much.
    """

    spec: str
    chosen: bool
    step_time_s: float | None
    causes_s: tuple[tuple[Cause, float], ...]
    peak_bytes: int
    missing_bytes: int = 0


@dataclass(frozen=True)
class Why:
    """A tensor and all ways to shard it, the chosen one first, then the fastest first. `layers`: of the stage that are
    like its own; `paces`: whether the stage is the one that sets the pace of the step."""

    tensor: str
    kind: str
    shape: tuple[int, ...]
    stage: int
    mesh: str
    layers: int
    paces: bool
    step_time_s: float
    ways: tuple[Way, ...]


@dataclass(frozen=True)
class Subject:
    """The tensor, where it is, how the plan shards it, and how to pin it in the layer that stands for all like it."""

    name: str
    kind: str
    shape: tuple[int, ...]
    stage: StagePlan
    spec: Spec
    layers: int
    pinned: Callable[[Pins, tuple[str | tuple[str, ...] | None, ...]], Pins]


def why(record: PlanRecord, model: Model, tensor: str, progress: Callable[[str], None] = lambda _: None) -> Why:
    """Price every sharding of a parameter (its path, or a pattern of which the first match is taken) or of an
    activation that `jax.ad_checkpoint.checkpoint_name` names.

    Raises:
      PlanMismatchError: the model is another than the plan's.
      UnknownNameError: there is no such tensor.
      PlannerError: the stage has one device: nothing can be sharded.
    """
    if record.replicas:
        raise PlannerError("a tensor has a sharding in each replica of the plan",
                           "ask of a plan of one: plan a part alone, or with replicas=1")
    prepared = prepare(matching_program(record, model), record.cluster.device)
    subject = _subject(record, prepared, tensor)
    stage = subject.stage
    if not stage.mesh_shape:
        raise PlannerError(f"stage {stage.index}, which holds {subject.name}, has one device: nothing is sharded there",
                           "ask about a tensor of a stage of several devices")
    chosen = _priced(record, prepared, subject, subject.spec)
    if chosen.stage is None:  # the plan fits by what a refinement found, which is not done here
        chosen = Priced(stage)
    others = [s for s in _specs(subject.shape, stage.mesh_shape) if s != subject.spec]
    ways = []
    for n, spec in enumerate(others):
        progress(f"{subject.name}: sharding {n + 1} of {len(others)}")
        ways.append(_way(record, subject, spec, chosen, _priced(record, prepared, subject, spec)))
    ways.sort(key=lambda w: (w.step_time_s is None, w.step_time_s or w.missing_bytes, w.spec))
    mesh = ", ".join(f"{n}={size}" for n, size in zip(stage.mesh_axes, stage.mesh_shape, strict=True))
    return Why(subject.name, subject.kind, subject.shape, stage.index, mesh, subject.layers,
               breakdown.bottleneck(record).index == stage.index, record.step_time_s,
               (_way(record, subject, subject.spec, chosen, chosen), *ways))


def _subject(record: PlanRecord, prepared: Prepared, tensor: str) -> Subject:
    for param in record.params:
        if fnmatchcase(param.path, tensor) or fnmatchcase(param.path.removeprefix("params/"), tensor):
            return _parameter(record, prepared, param)
    ops = prepared.program.forward.ops
    for n, op in enumerate(ops):
        if op.primitive == "name" and op.params.get("name") == tensor:
            return _activation(record, prepared, tensor, n)
    known = [p.path.removeprefix("params/") for p in record.params]
    known += [str(op.params.get("name")) for op in ops if op.primitive == "name"]
    raise UnknownNameError("parameter or named activation", tensor, tuple(dict.fromkeys(known)))


def _parameter(record: PlanRecord, prepared: Prepared, param: ParamPlan) -> Subject:
    index, layers, stage = prepared.index, prepared.layers, record.stages[param.home]
    layer = _layer_of(prepared, index.first_reader.get(param.value, 0))
    stands_for = {theirs: ours for ours, theirs in renamed(index, layers, layer)[0].items()}
    value = stands_for.get(param.value, param.value)
    path = next(i.path for i in index.program.micro.inputs_of(Role.PARAM) if i.value == value)
    return Subject(param.path, "parameter", param.shape, stage, param.spec, _alike(prepared, stage, layer),
                   lambda pins, spec: replace(pins, params=(*pins.params, (glob.escape(path), spec))))


def _activation(record: PlanRecord, prepared: Prepared, name: str, op: int) -> Subject:
    index = prepared.index
    layer = _layer_of(prepared, op)
    stage = next(s for s in record.stages if s.layers[0] <= layer < s.layers[1])
    value = prepared.program.forward.ops[op].results[0]
    own = index.owner.get(value, value)
    shape = index.program.micro.values[own].shape
    spec = dict(stage.specs).get(own, ((),) * len(shape))
    return Subject(name, "activation", shape, stage, spec, _alike(prepared, stage, layer),
                   lambda pins, spec: replace(pins, activations=(*pins.activations, (name, spec))))


def _layer_of(prepared: Prepared, op: int) -> int:
    return next(n for n, (first, last) in enumerate(prepared.layers.ranges) if first <= op < last)


def _alike(prepared: Prepared, stage: StagePlan, layer: int) -> int:
    classes = prepared.layers.classes
    return sum(classes[n] == classes[layer] for n in range(*stage.layers))


def _specs(shape: tuple[int, ...], mesh_shape: tuple[int, ...]) -> Iterator[Spec]:
    """Every sharding of a tensor over a mesh: each axis on one dimension or on none."""
    for places in product((None, *range(len(shape))), repeat=len(mesh_shape)):
        spec = tuple(tuple(a for a, d in enumerate(places) if d == dim) for dim in range(len(shape)))
        if is_legal(spec, shape, mesh_shape):
            yield spec


@dataclass(frozen=True)
class Priced:
    """A stage with the tensor pinned, or by how many bytes it does not fit."""

    stage: StagePlan | None
    missing_bytes: int = 0


def _priced(record: PlanRecord, prepared: Prepared, subject: Subject, spec: Spec) -> Priced:
    stage, cluster, names = subject.stage, record.cluster, subject.stage.mesh_axes
    words = tuple(tuple(names[a] for a in axes) or None for axes in spec)
    pins = subject.pinned(pins_of(record), words)
    part = cluster.part_of(stage.devices[0])
    kind, nodes = cluster.kinds[part], len({cluster.node_of(d) for d in stage.devices})
    submesh = Submesh(nodes, len(stage.devices) // nodes)
    space = MeshSpace(logical_mesh(kind, submesh, stage.mesh_shape), names, recipe_uses(pins.recipe, names), part)
    table = mesh_table(prepared, space, cluster, pins)
    first, last = stage.layers[0], stage.layers[1] - 1
    own, usable = table.useful.of(table.of(first, last)), kind.device.usable_bytes
    fastest = own.fitting(stage.in_flight, usable)
    if fastest is None:
        need = own.memory_bytes(stage.in_flight)
        return Priced(None, int(max(0.0, float(need.min()) - usable)) if len(need) else 0)
    choice = table_choice(table, first, last, int(own.variant[fastest]))
    pick = StagePick(space.mesh, names, choice, stage.devices, stage.in_flight, stage.send_s, 0.0)
    decisions = stage_decisions(prepared.index, prepared.layers, pick)
    return Priced(stage_plan(prepared, pick, stage.index, decisions, {}))


def _way(record: PlanRecord, subject: Subject, spec: Spec, chosen: Priced, found: Priced) -> Way:
    text, mine = to_text(spec, subject.stage.mesh_axes), spec == subject.spec
    assert chosen.stage is not None
    if found.stage is None:
        return Way(text, mine, None, (), 0, found.missing_bytes)
    added = _step_s(record, found.stage) - _step_s(record, chosen.stage)
    before, after = (stage_causes(_with(record, s), s) for s in (chosen.stage, found.stage))
    causes = sorted(((c, after[c] - before[c]) for c in after), key=lambda row: (-abs(row[1]), row[0]))
    return Way(text, mine, record.step_time_s + added,
               tuple((c, s) for c, s in causes if abs(s) > 1e-6 * record.step_time_s), found.stage.memory.total_bytes)


def _with(record: PlanRecord, stage: StagePlan) -> PlanRecord:
    return replace(record, stages=tuple(stage if s.index == stage.index else s for s in record.stages))


def _step_s(record: PlanRecord, stage: StagePlan) -> float:
    """The step by Alpa's equation with that stage in the place of its own; of several stages per rank, with their
    sum."""
    changed, layout = _with(record, stage), record.layout
    each = [s.time.microbatch_s + s.send_s + s.time.batch_s / record.microbatches for s in changed.stages]
    return pipeline_time_s([sum(each[s] for s in layout.stages_of(r)) for r in range(layout.ranks)],
                           record.microbatches)
