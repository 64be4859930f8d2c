"""Hand-written plans: every decision given by name, so that tests need no search."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from planner.core.graph import Phase, Program, Role
from planner.core.hardware import Cluster, Device, Link
from planner.core.layout import Layout, Placement, placed
from planner.core.plan import (
    DEVICE,
    HOST,
    SCHEMA_VERSION,
    LayerInfo,
    MemoryParts,
    OpInfo,
    ParamPlan,
    PlanRecord,
    StagePlan,
    TimeParts,
)
from planner.core.spec import Spec, is_legal, replicated
from planner.model import Model
from planner.trace import trace_program

SpecOf = Callable[[str, tuple[int, ...]], Spec]
"""(parameter path, shape) -> spec."""

CLUSTER = Cluster("test", Device("cpu", (("default", 1e9),), 1.0, 10**9, 1e9, 1e-6), 1, 8, Link(1e9, 1e-6),
                  Link(1e9, 1e-6))


def whole(_: str, shape: tuple[int, ...]) -> Spec:
    return replicated(len(shape))


@dataclass(frozen=True)
class Design:
    """One plan in short. `bounds`: forward operators at which stages after the first begin; None: equal shares.
    `chunks`: stages per group of devices, which lie as `placement` says."""

    stages: int = 1
    mesh_shape: tuple[int, ...] = (8,)
    microbatches: int = 1
    schedule: str = "1f1b"
    batch_axes: tuple[int, ...] = (0,)
    stored: SpecOf = whole
    updated: SpecOf | None = None
    used: SpecOf | None = None
    deferred: bool = False
    recompute: bool = False
    opt_on_host: Callable[[str], bool] = lambda path: False
    offload: bool = False
    kept: tuple[str, ...] = ()  # primitives whose results every layer keeps, making the rest again
    bounds: tuple[int, ...] | None = None
    layers_per_stage: int = 1
    placement: Placement = Placement.LINE
    chunks: int = 1

    @property
    def layout(self) -> Layout:
        return placed(self.placement, self.stages // self.chunks, self.chunks)


def record_of(model: Model, design: Design) -> PlanRecord:
    """The `PlanRecord` of a design for a model."""
    program = trace_program(model, design.microbatches)
    count = len(program.forward.ops)
    bounds = (0, *(design.bounds or tuple(round(count * s / design.stages) for s in range(1, design.stages))), count)
    homes = _homes(program, bounds)
    params = tuple(_param(program, design, i, homes) for i in program.forward.inputs_of(Role.PARAM))
    per = 1
    for n in design.mesh_shape:
        per *= n
    layers, stages = [], []
    for s in range(design.stages):
        first, last, rank = bounds[s], bounds[s + 1], design.layout.rank_of[s]
        k = design.layers_per_stage
        cuts = [first + (last - first) * n // k for n in range(k + 1)]
        layers += [LayerInfo((a, b), s * k + n, f"layer {n}", 1, 0, 0)
                   for n, (a, b) in enumerate(zip(cuts, cuts[1:], strict=False))]
        mine = (s * k, (s + 1) * k)
        stages.append(StagePlan(
            s, mine, (first, last), tuple(range(rank * per, (rank + 1) * per)), design.mesh_shape,
            tuple("abc"[:len(design.mesh_shape)]),
            _specs(program, design, params), _uses(program, design, bounds[s:s + 2], params),
            tuple(range(*mine)) if design.recompute else (), 1, TimeParts(1e-3), MemoryParts(1), (), 0.0, 0.0,
            "optimal", "test", "", offload=tuple(range(*mine)) if design.offload else (),
            selected=tuple((n, _results(program, design.kept, layers[n].ops)) for n in range(*mine) if design.kept)))
    infos = tuple(OpInfo(op.primitive, 0, 0, (), "") for op in program.forward.ops)
    return PlanRecord(SCHEMA_VERSION, "0", model.name, model.kind, program.fingerprint, CLUSTER,
                      per * design.layout.ranks, model.batch_size, design.microbatches, design.schedule, tuple(stages),
                      params, tuple(layers), infos, 1.0, 1.0, 1, "float32", (), (), (), (), ())


def _results(program: Program, primitives: Sequence[str], origins: tuple[int, int]) -> tuple[int, ...]:
    return tuple(v for op in program.micro.ops if op.phase is Phase.FORWARD and op.primitive in primitives
                 and origins[0] <= op.origin < origins[1] for v in op.results)


def _homes(program: Program, bounds: tuple[int, ...]) -> dict[int, int]:
    found: dict[int, int] = {}
    for n, op in enumerate(program.forward.ops):
        stage = max(s for s in range(len(bounds) - 1) if bounds[s] <= n)
        for v in op.inputs:
            found.setdefault(v, stage)
    return found


def _param(program: Program, design: Design, given, homes) -> ParamPlan:
    value = program.forward.values[given.value]
    stored = design.stored(given.path, value.shape)
    updated = (design.updated or design.stored)(given.path, value.shape)
    return ParamPlan(given.path, given.row, given.value, value.shape, value.dtype, stored, updated,
                     design.deferred, homes.get(given.value, 0), HOST if design.opt_on_host(given.path) else DEVICE)


def _specs(program: Program, design: Design, params) -> tuple[tuple[int, Spec], ...]:
    """The batch dimension follows from the batch inputs through everything of the same leading size."""
    micro = program.micro
    specs = {p.value: p.spec for p in params}
    sizes = {micro.values[i.value].shape[0] for i in micro.inputs_of(Role.BATCH) if micro.values[i.value].shape}
    grads = {o.operand for o in micro.outputs_of(Role.GRAD)}
    constants = {v for v, _ in micro.constants} | {i.value for i in micro.inputs_of(Role.STATE)}
    for v, value in enumerate(micro.values):
        if v in specs or v in grads or v in constants or len(value.shape) < 1 or value.shape[0] not in sizes:
            continue
        spec = (tuple(design.batch_axes), *replicated(len(value.shape) - 1))
        if is_legal(spec, value.shape, design.mesh_shape):
            specs[v] = spec
    if not design.deferred:
        for o in micro.outputs_of(Role.GRAD):
            if isinstance(o.operand, int):
                specs[o.operand] = next(p.update_spec for p in params if (p.path, p.row) == (o.path, o.row))
    return tuple(sorted(specs.items()))


def _uses(program: Program, design: Design, ops: tuple[int, int], params) -> tuple[tuple[int, int, Spec], ...]:
    if design.used is None:
        return ()
    plans = {p.value: p for p in params}
    found = []
    for n, op in enumerate(program.micro.ops):
        if ops[0] <= op.origin < ops[1] and op.phase is not Phase.UPDATE:
            for position, o in enumerate(op.operands):
                if isinstance(o, int) and o in plans:
                    spec = design.used(plans[o].path, plans[o].shape)
                    if spec != plans[o].spec:
                        found.append((n, position, spec))
    return tuple(found)
