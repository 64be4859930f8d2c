"""`Plan`: what `planner.plan` returns and users hold. A plan's record, with the verbs that read it.

In: a `PlanRecord`, which alone is enough for everything here; what runs also takes the model and the devices. JAX (to
run) and matplotlib (to draw) are imported by the verbs that need them: reading and printing a saved plan stays quick.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planner.core import plan_io
from planner.core.hardware import Cluster
from planner.core.plan import Baseline, MemoryParts, PlanRecord, StagePlan
from planner.errors import MeshError
from planner.report import breakdown, tables, units
from planner.report.explain import explain
from planner.simulate import Timeline, simulate

if TYPE_CHECKING:
    import jax

    from planner.check import CheckReport
    from planner.model import Model
    from planner.runtime import Loop
    from planner.verify import VerifyReport

WIDTH = 100
"""Columns of a printed plan where the output is no terminal."""


@dataclass(frozen=True, repr=False)
class Plan:
    """A plan. `print(p)` shows it as tables; `p.record` is all there is to it, as data.

    Attributes:
      record: the frozen, serialisable plan.
    """

    record: PlanRecord

    @property
    def stages(self) -> tuple[StagePlan, ...]:
        """The pipeline stages, in order."""
        return self.record.stages

    @property
    def microbatches(self) -> int:
        """Into how many microbatches a batch is split."""
        return self.record.microbatches

    @property
    def schedule(self) -> str:
        """Name of the pipeline schedule."""
        return self.record.schedule

    @property
    def cluster(self) -> Cluster:
        """The hardware planned for."""
        return self.record.cluster

    @property
    def step_time_s(self) -> float:
        """Predicted seconds of a step."""
        return self.record.step_time_s

    @property
    def gap(self) -> float:
        """Proven relative gap of the whole search, under the cost model."""
        return self.record.gap

    @property
    def memory(self) -> tuple[MemoryParts, ...]:
        """Predicted peak memory of one device, by stage."""
        return tuple(s.memory for s in self.record.stages)

    @property
    def peak_bytes(self) -> int:
        """Predicted peak memory of the fullest device."""
        return self.record.peak_bytes

    @property
    def mfu(self) -> float:
        """Predicted model FLOPs utilisation, a part of 1 (see `report.breakdown.peak`)."""
        return breakdown.mfu(self.record)

    @property
    def baselines(self) -> tuple[Baseline, ...]:
        """The standard recipes, priced by the same cost code."""
        return self.record.baselines

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know."""
        return self.record.warnings

    def __str__(self) -> str:
        return tables.render(self.record, _terminal_width())

    def __repr__(self) -> str:
        r = self.record
        devices = " + ".join(f"{kind.device_count} × {kind.device.name}" for kind in r.cluster.kinds)
        return (f"<Plan of {r.model_name} on {devices}: "
                f"{units.plural(len(r.stages), 'stage')}, {units.plural(r.microbatches, 'microbatch')}, "
                f"{units.seconds(r.step_time_s)} a step>")

    def __rich__(self) -> Any:
        """What `rich.print` shows: the tables, in colour."""
        return tables.report(self.record)

    def explain(self, width: int = WIDTH, *, operators: bool = False) -> str:
        """In words and numbers: where time and memory go, what sets the pace, what the recipes would cost; with
        `operators`, every operator that moves tensors too, as Unity's parallel computation graph has them."""
        return explain(self.record, width, operators=operators)

    def simulate(self, *, intervals: bool = True) -> Timeline:
        """The step by event simulation: what every stage does when, bubble, overlap, memory over time.

        Args:
          intervals: keep every interval, for pictures and traces; without, sums and memory only.
        """
        return simulate(self.record, intervals=intervals)

    def to_json(self) -> str:
        """The plan as text, the same for equal plans."""
        return plan_io.to_json(self.record)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan to a file, whole or not at all. Raises `PlanFileError`."""
        plan_io.save(self.record, path)

    def plot(self, path: str | os.PathLike[str], kind: str = "all", layer: int | None = None) -> None:
        """Draw the plan into a PNG, SVG or PDF file.

        Args:
          path: where to; the ending gives the format.
          kind: `"devices"`, `"timetable"`, `"memory-curve"`, `"memory"`, `"time"`, `"graph"`, `"shardings"`,
            `"operators"`, or `"all"`: all but the last on one sheet.
          layer: of kind `"operators"`, which layer (with those alike to it); None: what communicates longest.

        Raises:
          UnknownNameError: there is no such kind.
          PlannerError: unknown format, no such layer, or the file cannot be written.
        """
        from planner.report import plots

        plots.plot(self.record, path, kind, layer)

    def compile(self, model: "Model", mesh: "jax.sharding.Mesh | Sequence[jax.Device]", **options: Any) -> \
            tuple[Callable[..., Any], Any]:
        """The runnable step of a model under this plan, and its initial state on the devices.

        Args:
          model: the model the plan was made for, with real parameters.
          mesh: the devices, as many as planned for.
          options: see `planner.runtime.compile_plan` (`params=`).

        Returns:
          (step, state): `state, metrics = step(state, batch)`; see `planner.runtime.compile_plan` for inference.

        Raises:
          PlanMismatchError: another model or another number of devices.
          ModelError: the parameters are abstract.
        """
        from planner import runtime

        return runtime.compile_plan(self.record, model, device_list(mesh, self.cluster), **options)

    def run(self, step: Callable[..., Any], state: Any, batches: Callable[[int], Any], steps: range,
            **options: Any) -> "Loop":
        """Run many steps, without the host ever waiting inside one: `for done in p.run(...): print(done)` prints loss,
        step time, tokens a second, FLOP/s, utilisation and memory of each.

        Args:
          step, state: from `compile`, or of a run that was resumed.
          batches: makes the batch of a step from its number.
          steps: numbers of the steps to run, as `range(10_000)`.
          options: fields of `planner.runtime.LoopOptions`: `saver=` (a `planner.Checkpoints`), `nonfinite="go-on"`,
            `amount=`, `trace=` (a `planner.runtime.Trace`).

        Returns:
          An iterator of steps that are done; its `state` is the newest state.

        Raises:
          NonFiniteError (as it is iterated): a loss isn't finite, unless told to go on.
        """
        from planner import runtime

        return runtime.Loop(self.record, step, state, batches, steps, runtime.LoopOptions(**options))

    def annotate(self, model: "Model") -> Callable[..., Any]:
        """The model's function with the plan's sharding constraints inside, for your own `jax.jit` (one stage only)."""
        from planner.emit.annotate import annotate

        return annotate(self.record, model)

    def in_shardings(self, model: "Model", mesh: "jax.sharding.Mesh | Sequence[jax.Device]") -> Any:
        """Shardings of the arguments of the model's function, for `jax.jit(..., in_shardings=)`."""
        from planner.emit.annotate import in_shardings

        return in_shardings(self.record, model, mesh)

    def check(self, model: "Model", mesh: "jax.sharding.Mesh | Sequence[jax.Device] | None" = None, **options: Any) -> \
            "CheckReport":
        """Run the plan beside plain JAX on one device and compare losses, gradients and parameters.

        Args:
          model: the model the plan was made for.
          mesh: devices to run on; default: the local devices.
          options: see `planner.check.check_plan` (`steps=`, `seed=`, tolerances).
        """
        import jax

        from planner.check import check_plan

        devices = jax.devices()[:self.record.device_count] if mesh is None else device_list(mesh, self.cluster)
        return check_plan(self.record, model, devices, **options)

    def verify(self, model: "Model", target: str = "auto", **options: Any) -> "VerifyReport":
        """Compile the plan's programs for a target, without running them, and hold them against the prediction:
        collectives, memory, FLOPs.

        Args:
          model: the model the plan was made for; it may be abstract.
          target: `"local"`, `"cpu:64"`, `"tpu:v5p:4x4x4"`, `"cuda:h100:8"` (the hardware need not be there), or
            `"auto"`: the TPU topology of the plan's cluster, else the local devices, else as many virtual CPU devices.
          options: see `planner.verify.verify_plan` (`devices=`, `progress=`).

        Raises:
          VerifyError, UnknownNameError: no such target, its compiler is not installed, or it refuses a program.
          PlanMismatchError: another model or another number of devices.
        """
        from planner.verify import verify_plan

        return verify_plan(self.record, model, target, **options)

    @property
    def phases_s(self) -> Mapping[str, float]:
        """Seconds of planning by phase; empty for a plan that was loaded."""
        return dict(self.record.phases_s)


def load(path: str | os.PathLike[str]) -> Plan:
    """Read a plan that `Plan.save` wrote.

    Raises:
      PlanFileError: missing, truncated, corrupt, or of another schema version.
    """
    return Plan(plan_io.load(path))


def device_list(mesh: Any, planned_for: Cluster) -> "list[jax.Device]":
    """The devices of a mesh, or those of a list, as plans for that cluster number them. Raises `MeshError` for a
    cluster profile, or none."""
    from planner.emit.meshes import laid_out

    if isinstance(mesh, Cluster):
        raise MeshError(f"{mesh.name!r} is a cluster profile: it can be planned for, not run on",
                        "give a jax.sharding.Mesh or a list of devices")
    found = list(mesh.devices.flat) if hasattr(mesh, "devices") else list(mesh)
    if not found:
        raise MeshError("the mesh has no devices", "give a jax.sharding.Mesh or a list of devices that is not empty")
    return laid_out(planned_for, found)


def _terminal_width() -> int:
    try:
        return max(80, os.get_terminal_size(1).columns)
    except OSError:
        return WIDTH
