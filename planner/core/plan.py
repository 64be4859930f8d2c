"""The plan: everything needed to emit, run, verify, explain, plot and simulate, with nothing left to the search.

Frozen, JSON-serialisable (`core/plan_io.py`), byte-identical for identical inputs. Times are seconds, sizes bytes per
device. The handle with verbs that users hold is `planner.Plan` (`planner/planned.py`), which wraps a `PlanRecord`.
"""

from dataclasses import dataclass
from itertools import accumulate

from planner.core.alternative import Alternative
from planner.core.alternative import Baseline as Baseline
from planner.core.alternative import ScheduleCost as ScheduleCost
from planner.core.communication import GATHER_OF as GATHER_OF
from planner.core.communication import GRADIENT_OF as GRADIENT_OF
from planner.core.communication import HALO_OF as HALO_OF
from planner.core.communication import OPERAND as OPERAND
from planner.core.communication import RESULT as RESULT
from planner.core.communication import Collective as Collective
from planner.core.hardware import Cluster
from planner.core.layout import Layout, layout_of
from planner.core.rewriting import AppliedRewrite, Rewriting
from planner.core.spec import Spec

SCHEMA_VERSION = 2

DEVICE, HOST = "device", "pinned_host"
"""Where arrays lie: in a device's memory, or in the memory of its host, page-locked; JAX's names of memory kinds."""


@dataclass(frozen=True, slots=True)
class TimeParts:
    """Predicted time of one stage on its devices.

    The first three are per microbatch (forward + backward), the next two once per batch. They are full times; what runs
    beside compute (`Cluster.overlap`) is in the last two, and is no part of `microbatch_s` and `batch_s`.
    """

    compute_s: float = 0.0
    collective_s: float = 0.0  # reductions of partial results inside the stage (tensor/expert parallel)
    reshard_s: float = 0.0  # moving tensors from one sharding to another, parameter gathers included
    grad_sync_s: float = 0.0  # combining weight gradients over data-like axes
    update_s: float = 0.0  # optimizer update, and gathering updated parameters
    hidden_s: float = 0.0  # per microbatch, of collectives and resharding
    hidden_batch_s: float = 0.0  # per batch, of gradient synchronisation
    host_s: float = 0.0  # per microbatch, waiting for activations to go to the host's memory or to come back
    host_batch_s: float = 0.0  # per batch, optimizer state from the host's memory visiting the devices

    @property
    def microbatch_s(self) -> float:
        return max(0.0, self.compute_s + self.collective_s + self.reshard_s - self.hidden_s) + self.host_s

    @property
    def batch_s(self) -> float:
        return max(0.0, self.grad_sync_s + self.update_s - self.hidden_batch_s) + self.host_batch_s


@dataclass(frozen=True, slots=True)
class LayerTime:
    """Predicted seconds of one layer on its stage's devices, as if nothing ran beside anything.

    All but `batch_sync_s` are per microbatch.
    """

    forward_s: float = 0.0  # kernels
    forward_wait_s: float = 0.0  # communication that the kernels wait for: reductions, resharding
    forward_gather_s: float = 0.0  # gathering parameters
    backward_s: float = 0.0  # kernels; where the layer is recomputed, those of its forward again
    backward_wait_s: float = 0.0
    backward_gather_s: float = 0.0
    sync_s: float = 0.0  # combining gradients in every backward pass
    batch_sync_s: float = 0.0  # combining them once per batch
    weight_s: float = 0.0  # of backward_s, what only makes gradients of parameters (`core/backward_split.py`)


@dataclass(frozen=True, slots=True)
class MemoryParts:
    """Predicted peak memory of one device of a stage, by kind; `host_bytes`, of the host's memory, is no part of it."""

    params_bytes: int = 0
    opt_state_bytes: int = 0
    grads_bytes: int = 0
    activations_bytes: int = 0  # saved for the backward pass, all in-flight microbatches
    transient_bytes: int = 0  # largest working set on top of the rest
    host_bytes: int = 0  # optimizer state and activations of this device that lie in its host's memory

    @property
    def total_bytes(self) -> int:
        return (self.params_bytes + self.opt_state_bytes + self.grads_bytes + self.activations_bytes
                + self.transient_bytes)


@dataclass(frozen=True, slots=True)
class ParamPlan:
    """How one parameter (or one layer row of a stacked parameter) is stored, synchronised and updated.

    Attributes:
      path, row: as in `core.graph.Input`.
      value: its value index in `Program.micro`.
      spec: sharding between steps and at rest during the step. Where an operator needs another one (FSDP), the gather
        is in `StagePlan.uses`.
      update_spec: sharding of the gradient sum, the optimizer state and the update (ZeRO: finer than `spec`).
      deferred: True: partial gradients are accumulated locally, over microbatches and all operators of a stage that
        read the parameter, and combined once per batch; False: each is combined in every microbatch.
      home: the stage that holds it and updates it. Other stages that read it hold a copy (tied weights).
      opt_memory: where its optimizer state lies between updates, `DEVICE` or `HOST`. By parameter, so that no more is
        moved in every step than has to be.
    """

    path: str
    row: int | None
    value: int
    shape: tuple[int, ...]
    dtype: str
    spec: Spec
    update_spec: Spec
    deferred: bool
    home: int
    opt_memory: str = DEVICE


@dataclass(frozen=True)
class StagePlan:
    """One pipeline stage on one submesh; several stages may share one.

    Attributes:
      index: 0-based position.
      layers: [first, last) layer indices.
      ops: [first, last) indices of forward operators (`Op.origin`): an operator of `Program.micro` belongs to the stage
        whose range contains its origin.
      devices: indices into the flat device list, row-major over `mesh_shape` (see `order`).
      mesh_shape, mesh_axes: the logical mesh; `()` for a single device.
      specs: (value of `Program.micro`, Spec): the settled sharding of values this stage produces or reads, cotangents
        included. The emitter constrains the value to it. Values absent are left to XLA.
      uses: (operator index in `Program.micro`, operand position, Spec): this operand is needed in another sharding than
        the settled one; the emitter constrains it just before use.
      recompute: layers whose forward is run again in the backward instead of saving its activations.
      offload: layers of which what waits for the backward waits in the host's memory.
      selected: (layer, values of `Program.micro`): layers of whose forward these values are kept and what else the
        backward needs is run again. A layer is in `recompute`, in `selected`, or in neither: then all that its
        backward reads is kept.
      in_flight: microbatches whose activations are held at the peak.
      time, memory: predictions.
      collectives: what is predicted to be communicated.
      send_s: handing over what comes from earlier stages, and cotangents back to them, and calling the stage's
        programs, per microbatch; the stage is busy with it.
      order: places in `devices`, row-major over `mesh_shape`, where the mesh takes them in another order; else empty.
      gap: proven relative gap of the intra-stage choice; status and solver as in `core.problem.Solution`.
      layer_times: one per layer, in order; empty where they are not known.
      waiting: microbatches between input and weight gradient at the peak; 0 where the backward is whole.
      waiting_bytes: what one of them leaves, of one device; part of the activations. 0 where it is not known: then as
        much as a microbatch in flight.
    """

    index: int
    layers: tuple[int, int]
    ops: tuple[int, int]
    devices: tuple[int, ...]
    mesh_shape: tuple[int, ...]
    mesh_axes: tuple[str, ...]
    specs: tuple[tuple[int, Spec], ...]
    uses: tuple[tuple[int, int, Spec], ...]
    recompute: tuple[int, ...]
    in_flight: int
    time: TimeParts
    memory: MemoryParts
    collectives: tuple[Collective, ...]
    send_s: float
    gap: float
    status: str
    solver: str
    summary: str  # the shardings in words: "batch over data (4), heads and hidden over model (2)"
    layer_times: tuple[LayerTime, ...] = ()
    waiting: int = 0
    waiting_bytes: int = 0
    offload: tuple[int, ...] = ()
    selected: tuple[tuple[int, tuple[int, ...]], ...] = ()
    order: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """A layer, for people: its operators, class of structurally equal layers, size."""

    ops: tuple[int, int]
    layer_class: int
    name: str
    flops: int  # forward, one microbatch
    param_bytes: int
    crossing_bytes: int  # activations handed to later layers, one microbatch


@dataclass(frozen=True, slots=True)
class OpInfo:
    """A forward operator, for pictures and explanations."""

    primitive: str
    layer: int
    flops: int
    reads: tuple[int, ...]  # forward operators whose results it reads
    source: str


@dataclass(frozen=True)
class PlanRecord:
    """See the module. `step_time_s` is predicted for one training step (all microbatches).

    A plan of several replicas (`core/replicas.py`) has a plan for each: its own stages are all of theirs, one replica
    after the other, its parameters those of the first, and its microbatches are shared out among them.
    """

    schema_version: int
    planner_version: str
    model_name: str
    kind: str
    fingerprint: str
    cluster: Cluster
    device_count: int
    batch_size: int
    microbatches: int
    schedule: str
    stages: tuple[StagePlan, ...]
    params: tuple[ParamPlan, ...]
    layers: tuple[LayerInfo, ...]
    ops: tuple[OpInfo, ...]
    step_time_s: float
    lower_bound_s: float  # proven for the search space searched, under the cost model
    model_flops: int  # forward + backward + update, one step
    compute_dtype: str  # that most of them are computed in
    baselines: tuple[Baseline, ...]
    pins: tuple[tuple[str, str], ...]
    pruned: tuple[tuple[str, int], ...]  # (why, how many candidates)
    phases_s: tuple[tuple[str, float], ...]  # planning time by phase; always empty in a saved plan (not reproducible)
    warnings: tuple[str, ...]
    schedules: tuple[ScheduleCost, ...] = ()  # what other schedules would cost
    alternatives: tuple[Alternative, ...] = ()  # what other counts and meshes would
    replicas: tuple["PlanRecord", ...] = ()
    sync_s: float = 0.0  # adding up their gradients, and waiting for the update of the slowest
    rewrites: tuple[AppliedRewrite, ...] = ()  # made of the model's program, in order

    @property
    def rewritings(self) -> tuple[Rewriting, ...]:
        """What was applied where, in order."""
        return tuple(r.rewriting for r in self.rewrites)

    def replica_of(self, stage: StagePlan) -> int:
        """The replica that a stage is of."""
        ends = accumulate(len(r.stages) for r in self.replicas)
        return next((n for n, end in enumerate(ends) if stage.index < end), 0)

    def microbatches_of(self, stage: StagePlan) -> int:
        """Microbatches that a stage computes in a step."""
        return self.replicas[self.replica_of(stage)].microbatches if self.replicas else self.microbatches

    @property
    def layout(self) -> Layout:
        """Which stages share their devices: those are a rank."""
        return layout_of([stage.devices for stage in self.stages])

    @property
    def rank_bytes(self) -> tuple[int, ...]:
        """Per rank, the peak memory of one of its devices: of all its stages together."""
        layout = self.layout
        return tuple(sum(self.stages[s].memory.total_bytes for s in layout.stages_of(rank))
                     for rank in range(layout.ranks))

    @property
    def peak_bytes(self) -> int:
        """The peak memory of the fullest device."""
        return max(self.rank_bytes)

    @property
    def gap(self) -> float:
        """(predicted - lower bound) / predicted, of the whole search."""
        return max(0.0, 1.0 - self.lower_bound_s / self.step_time_s) if self.step_time_s else 0.0


def uses_host_memory(record: PlanRecord) -> bool:
    """Whether a plan keeps optimizer state or activations in the memory of the devices' hosts."""
    return any(s.offload for s in record.stages) or any(p.opt_memory == HOST for p in record.params)
