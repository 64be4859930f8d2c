"""A plan before the compiler that would run it: every program compiled for a target, held against the prediction.

In: a plan, its model, a target's name. Out: `VerifyReport`; what is off is reported, not raised.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from planner.core.graph import Graph, Phase
from planner.core.hardware import Cluster, LogicalMesh, Submesh
from planner.core.plan import GRADIENT_OF, PlanRecord, StagePlan
from planner.core.replicas import devices_of
from planner.costs.collectives import KINDS, REDUCE_SCATTER, collective, sent_bytes
from planner.costs.topology import logical_mesh
from planner.emit.names import named_gradient, named_operator
from planner.model import Model
from planner.runtime.compile import Built, build_step
from planner.runtime.replicated import model_of_share
from planner.verify.expected import expected_matrix_flops
from planner.verify.matching import Foreseen, Made, Matched, match
from planner.verify.programs import Compilation, Progress, compile_all
from planner.verify.report import KindRow, StageReport, Surprise, VerifyReport
from planner.verify.targets import Target, target_of


def verify_plan(record: PlanRecord, model: Model, target: str = "auto", *, devices: Sequence[Any] | None = None,
                progress: Progress | None = None) -> VerifyReport:
    """Compile a plan for a target and compare.

    Args:
      record: the plan.
      model: its model; it may be abstract, nothing is allocated.
      target: see `planner.verify.targets`.
      devices: what `local` means; default: the devices of this process.
      progress: told what is being compiled, and the share that is done.

    Raises:
      VerifyError, UnknownNameError: no such target, or a program does not compile for it.
      PlanMismatchError: plan and model don't belong together.
    """
    place, tell = target_of(target, record, devices), progress or (lambda *_: None)
    if not record.replicas:
        stages, notes = _verified(record, model, place, tell)
        return VerifyReport(record.model_name, place.name, record.device_count, stages, notes)
    found, said = list[StageReport](), list[str]()
    for n, replica in enumerate(record.replicas):
        own = replace(place, devices=tuple(place.devices[d] for d in devices_of(record, n)))
        stages, notes = _verified(replica, model_of_share(record, model, n), own, tell, apart=True)
        found += [replace(s, index=len(found) + m) for m, s in enumerate(stages)]
        said += notes
    return VerifyReport(record.model_name, place.name, record.device_count, tuple(found), (
        *dict.fromkeys(said), "gradients that replicas exchange are not compiled: they are copies between devices"))


def _verified(record: PlanRecord, model: Model, place: Target, progress: Progress, *, apart: bool = False
              ) -> tuple[tuple[StageReport, ...], tuple[str, ...]]:
    """Stages of a plan, or of a replica, whose update is apart, and what the reader should know."""
    built = build_step(record, model, place.devices, apart=apart)
    compiled = compile_all(record, built, model, progress)
    flops = expected_matrix_flops(record, built)
    stages = tuple(_Stage(record, stage, built, place).report(compiled, flops[stage.index]) for stage in record.stages)
    return stages, _notes(record, place, built)


class _Stage:
    """The comparison of one stage."""

    def __init__(self, record: PlanRecord, stage: StagePlan, built: Built, target: Target) -> None:
        self._record, self._stage, self._built, self._target = record, stage, built, target
        self._mesh = _mesh(record.cluster, stage)

    def report(self, compiled: Compilation, flops: int) -> StageReport:
        """The stage beside its programs."""
        index = self._stage.index
        programs = [p for p in compiled.programs if p.stage == index]
        merged = self._record.cluster.reduce_scatter_as_all_reduce or self._target.platform == "cpu"
        matched = match(self._record, self._stage, programs, scatters_as_reduces=merged)
        return StageReport(
            index, self._kinds(matched), _dearest(self._made(m) for m in matched.unforeseen),
            _dearest(self._foreseen(f) for f in matched.absent),
            self._record.rank_bytes[self._record.layout.rank_of[index]],
            compiled.peak_bytes[index], flops, sum(p.matrix_flops * p.row.times for p in programs),
            tuple(p.row for p in programs))

    def _kinds(self, matched: Matched) -> tuple[KindRow, ...]:
        found: dict[tuple[str, str], list[Any]] = {}
        for side, items in ((0, matched.foreseen), (2, matched.made)):
            for x in items:
                row = found.setdefault((x.kind, self._axes(x.axes)), [0, 0, 0, 0, 0.0, 0.0])
                moved, devices = (x.moved, x.devices) if isinstance(x, Made) else (x.bytes, self._devices(x.axes))
                row[side] += x.times
                row[side + 1] += x.times * moved
                row[4 + side // 2] += x.times * sent_bytes(x.kind, moved, devices)
        return tuple(KindRow(kind, axes, *map(round, row)) for (kind, axes), row in sorted(found.items()))

    def _devices(self, axes: tuple[int, ...]) -> int:
        return prod(self._stage.mesh_shape[a] for a in axes)

    def _axes(self, axes: tuple[int, ...] | None) -> str:
        return "part of an axis" if axes is None else ", ".join(self._stage.mesh_axes[a] for a in axes)

    def _share(self, m: Made) -> float:
        """By the plan's prices; its part of the instruction, beyond what was foreseen in its place. Unknown axes are
        priced as all, which is the dearest."""
        along = tuple(range(len(self._stage.mesh_shape))) if m.axes is None else m.axes
        if m.kind not in KINDS:
            return 0.0
        each = collective(m.kind, along, self._mesh).at(m.together) * m.bytes / max(m.together, 1)
        spent = m.times * max(each - (m.instead_s or 0.0), 0.0)
        return spent / self._record.step_time_s if self._record.step_time_s else 0.0

    def _made(self, m: Made) -> Surprise:
        instead = f", for a {REDUCE_SCATTER}" if m.instead_s is not None else ""
        return Surprise(m.kind, self._axes(m.axes), m.program, self._operator(m.op_name) + instead, m.tensor, m.moved,
                        m.times, self._share(m))

    def _foreseen(self, f: Foreseen) -> Surprise:
        return Surprise(f.kind, self._axes(f.axes), "", f.where, "", f.bytes, f.times,
                        f.times * f.time_s / self._record.step_time_s if self._record.step_time_s else 0.0)

    def _operator(self, op_name: str) -> str:
        """Whose instruction it is, by the scopes it was traced in."""
        gradient = named_gradient(op_name)
        if gradient is not None:
            return f"{GRADIENT_OF}{gradient}"
        named = named_operator(op_name)
        graph: Graph | None = self._built.program.update if named is not None and named.phase is Phase.UPDATE else \
            self._built.given.graph
        if named is None or graph is None or named.index >= len(graph.ops):
            return op_name.rsplit("/", 1)[-1] or "not told by the compiler"
        op = graph.ops[named.index]
        results = ", ".join(f"{graph.values[v].dtype}{list(graph.values[v].shape)}" for v in op.results[:1])
        return " ".join(filter(None, (op.primitive, f"({op.phase.value})", op.source, f"→ {results}")))


def _mesh(cluster: Cluster, stage: StagePlan) -> LogicalMesh:
    nodes = len({cluster.node_of(d) for d in stage.devices})
    submesh = Submesh(nodes, len(stage.devices) // nodes)
    return logical_mesh(cluster.kind_of(stage.devices[0]), submesh, stage.mesh_shape)


def _dearest(found: Iterable[Surprise]) -> tuple[Surprise, ...]:
    """The dearest first; equal ones of the same operator are one, as often as all of them."""
    times: dict[Surprise, int] = {}
    shares: dict[Surprise, float] = {}
    for s in found:
        key = replace(s, times=0, share=0.0)
        times[key] = times.get(key, 0) + s.times
        shares[key] = shares.get(key, 0.0) + s.share
    merged = [replace(k, times=n, share=shares[k]) for k, n in times.items()]
    return tuple(sorted(merged, key=lambda s: (-s.share, s.kind, s.operator, s.tensor)))


def _notes(record: PlanRecord, target: Target, built: Built) -> tuple[str, ...]:
    planned = record.cluster.device.name.lower()
    own = {"cpu": "cpu" in planned, "tpu": "tpu" in planned,
           "gpu": "tpu" not in planned and "cpu" not in planned}[target.platform]
    other = () if own else (f"the plan is for {record.cluster.device.name}, whose compiler is not that of "
                            f"{target.name}: other fusions, other widths of sums",)
    return (*other, *built.step.warnings)
