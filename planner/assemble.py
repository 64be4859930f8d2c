"""From chosen slices, meshes and choices to the saved `PlanRecord` pieces: `StagePlan`s and `ParamPlan`s.

In: where each stage's layers, devices and choices come from (`StagePick`). Out: what the emitter and the reports read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from planner.core.graph import Graph, Op, Phase, Role
from planner.core.hardware import LogicalMesh
from planner.core.plan import HALO_OF, Collective, MemoryParts, ParamPlan, StagePlan
from planner.core.recomputation import Recompute
from planner.core.spec import Spec
from planner.intraop.decisions import LayerDecisions, decide
from planner.intraop.repeats import renamed
from planner.intraop.slice_choice import SliceChoice
from planner.layers import Layers
from planner.prepared import Prepared
from planner.program_index import ProgramIndex
from planner.stage_times import layer_times, time_parts

SPATIAL = ("height", "width")
"""Dimensions of a batch of images (`Prepared.input_dims`) that windows slide along."""


@dataclass(frozen=True)
class StagePick:
    """One chosen stage: a choice for its layers on a logical mesh, its devices and predicted gap, who chose, and what
    is held at the peak: microbatches in flight, and of those that wait for their weight gradients what that reads."""

    mesh: LogicalMesh
    axis_names: tuple[str, ...]
    choice: SliceChoice
    devices: tuple[int, ...]
    in_flight: int
    send_s: float
    gap: float
    solver: str = "elimination"
    waiting: int = 0
    waiting_bytes: float = 0.0

    @property
    def peak_bytes(self) -> float:
        """Of one device; of a rank with several stages, what this one takes of its peak."""
        parts = self.choice.parts
        held = self.in_flight * parts[4] + self.waiting * self.waiting_bytes
        return parts[3] + max(held + self.choice.working_bytes, parts[5])

    @property
    def first(self) -> int:
        return self.choice.steps[0].layer

    @property
    def last(self) -> int:
        return self.choice.steps[-1].layer


def stage_decisions(index: ProgramIndex, layers: Layers, pick: StagePick) -> tuple[LayerDecisions, ...]:
    """The decisions of every layer of a stage, in the values of that layer."""
    found: list[LayerDecisions] = []
    known: dict[tuple[int, int, int, int], LayerDecisions] = {}
    for step in pick.choice.steps:
        key = (id(step.frontier), step.row, step.before, step.after)
        if key not in known:
            known[key] = decide(index, step.frontier.layer, step.frontier.choice(step.row, step.before, step.after),
                                step.way)
        found.append(known[key].rename(*renamed(index, layers, step.layer), index.names))
    return tuple(found)


def stage_plan(prepared: Prepared, pick: StagePick, number: int, decisions: Sequence[LayerDecisions],
               stored: dict[int, Spec]) -> StagePlan:
    """The saved form of one stage. `stored` gives the storage spec of every parameter that it is the home of; copies of
    others (tied weights) lie as the stage has chosen, whose mesh may be another."""
    index, layers = prepared.index, prepared.layers
    mesh = pick.mesh
    specs: dict[int, Spec] = {}
    for d in decisions:
        for owner, spec in d.tensors:
            specs[owner] = spec
        for value, spec in (*d.exported, *d.grads):
            specs[value] = spec
        for p in d.params:
            specs[p.value] = stored.get(p.value, specs.get(p.value, p.spec))
    for owner in list(specs):
        for cotangent in index.owned.get(owner, ()):
            specs.setdefault(cotangent, specs[owner])
    uses = {(op, position, spec) for d in decisions for value, op, position, spec in d.wanted
            if specs.get(value) != spec}
    moves = merge([m for d in decisions for m in (*d.collectives, *d.repeated)])
    recompute = tuple(step.layer for step in pick.choice.steps if step.way is Recompute.ALL)
    selected = tuple((step.layer, d.kept) for d, step in zip(decisions, pick.choice.steps, strict=True)
                     if step.way is Recompute.SELECTED)
    return StagePlan(
        number, (pick.first, pick.last + 1), (layers.cuts[pick.first], layers.cuts[pick.last + 1]), pick.devices,
        mesh.shape, pick.axis_names, tuple(sorted(specs.items())), tuple(sorted(uses)), recompute, pick.in_flight,
        time_parts(pick.choice, moves),
        _memory(decisions, pick), moves, pick.send_s, pick.gap, "optimal" if pick.gap <= 1e-9 else "feasible",
        pick.solver, _summary(prepared, decisions, pick),
        layer_times(pick.choice, decisions, prepared.weights), selected=selected, waiting=pick.waiting,
        waiting_bytes=int(pick.waiting_bytes), order=mesh.order)


def _memory(decisions: Sequence[LayerDecisions], pick: StagePick) -> MemoryParts:
    parts = pick.choice.parts
    params = sum(p.params_bytes for d in decisions for p in d.params)
    opt = sum(p.opt_state_bytes for d in decisions for p in d.params)
    grads = sum(d.grads_bytes for d in decisions)
    activations = int(pick.in_flight * parts[4] + pick.waiting * pick.waiting_bytes)
    return MemoryParts(int(params), int(opt), int(grads), activations,
                       int(pick.peak_bytes - parts[3] - activations))


def merge(moves: Sequence[Collective]) -> tuple[Collective, ...]:
    """Communications that are alike but for their place in a repeat, added up; `bytes` and `time_s` are totals."""
    found: dict[tuple[str, tuple[int, ...], str, str, str, int, str, tuple[int, ...], tuple[int, ...]],
                tuple[int, float]] = {}
    for m in moves:
        key = (m.kind, m.axes, m.per, m.phase, m.where, m.bytes, m.side, m.cut, m.cuts)
        count, time_s = found.get(key, (0, 0.0))
        found[key] = (count + 1, time_s + m.time_s)
    slowest_first = sorted(found.items(), key=lambda kv: (-kv[1][1], kv[0]))
    return tuple(Collective(kind, axes, count * each, time_s, per, phase, where, count, side, cut, cuts)
                 for (kind, axes, per, phase, where, each, side, cut, cuts), (count, time_s) in slowest_first)


def param_plans(graph: Graph, decisions: Sequence[tuple[int, LayerDecisions]]) -> tuple[ParamPlan, ...]:
    """One `ParamPlan` per parameter input, from the decisions of its home layer; `decisions` pairs stage and layer."""
    found: dict[int, ParamPlan] = {}
    for stage, d in decisions:
        for p in d.params:
            if p.home:
                value = graph.values[p.value]
                found[p.value] = ParamPlan(p.path, p.row, p.value, value.shape, value.dtype, p.spec, p.update_spec,
                                           p.deferred, stage)
    for inp in graph.inputs_of(Role.PARAM):
        if inp.value not in found:  # never read: kept whole on the first stage
            value = graph.values[inp.value]
            whole: Spec = ((),) * len(value.shape)
            found[inp.value] = ParamPlan(inp.path, inp.row, inp.value, value.shape, value.dtype, whole, whole, False, 0)
    order = [i.value for i in graph.inputs_of(Role.PARAM)]
    return tuple(found[v] for v in order)


def _summary(prepared: Prepared, decisions: Sequence[LayerDecisions], pick: StagePick) -> str:
    """What each mesh axis does, in words."""
    index, inputs = prepared.index, prepared.input_dims
    shape = pick.mesh.shape
    if not shape:
        return "one device"
    named: dict[str, list[str]] = {}
    for axis, size in enumerate(shape):
        roles: list[str] = []
        activations = [(o, d) for dec in decisions for o, spec in dec.tensors for d, axes in enumerate(spec)
                       if axis in axes]
        if any(key in index.batch_dims for key in activations):
            roles.append("batch")
        others = sorted({inputs.get(key, "features") for key in activations if key not in index.batch_dims
                         and key[0] not in index.role})
        params = [p for dec in decisions for p in dec.params]
        used = _weight_parts(index.program.micro, decisions, axis)
        stored = sum(any(axis in axes for axes in p.spec) for p in params)
        halos = any(axis in c.axes and c.where.startswith(HALO_OF) for dec in decisions for c in dec.collectives)
        roles += [f"{name} (spatial, halo exchange)" if halos and name in SPATIAL else name for name in others
                  if name != "features" or not used]
        if "blocks" in used:
            roles.append("experts (expert parallel)")
        if used - {"blocks"}:
            roles.append("contracted dimensions (reduction)" if used <= {"blocks", "contracted"} else
                         "weights (tensor parallel)")
        if stored and not used:
            roles.append("stored parameters (FSDP)")
        elif any(any(axis in axes for axes in p.update_spec) and not any(axis in axes for axes in p.spec)
                 for p in params):
            roles.append("optimizer state (ZeRO)")
        named.setdefault(" + ".join(roles) or "replicated", []).append(f"{pick.axis_names[axis]} ({size})")
    return "; ".join(f"{', '.join(axes)}: {roles}" for roles, axes in named.items())


def _weight_parts(graph: Graph, decisions: Sequence[LayerDecisions], axis: int) -> frozenset[str]:
    """How matrix multiplications and convolutions work on shards of parameters along the axis: "contracted" dimensions
    of them, "made" ones, that are dimensions of the result, or "blocks": each with a part of the other operand alone,
    as experts are."""
    found: set[str] = set()
    for dec in decisions:
        weights = {p.value for p in dec.params} | {v for v, _ in dec.exported}
        for value, n, position, spec in dec.wanted:
            op = graph.ops[n]
            if value in weights and op.phase is Phase.FORWARD and len(spec) > 1:
                found |= {_part_of(op, position, d) for d, axes in enumerate(spec) if axis in axes}
    return frozenset(found)


def _part_of(op: Op, position: int, dimension: int) -> str:
    if op.primitive == "dot_general":
        contract, batch = op.params["dimension_numbers"]
        return "contracted" if dimension in contract[position] else "blocks" if dimension in batch[position] else "made"
    if op.primitive == "conv_general_dilated":
        return "contracted" if dimension == op.params["dimension_numbers"].rhs_spec[1] else "made"
    return "made"
