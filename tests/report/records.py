"""Hand-made plans of a GPT for tests of what reads a plan: 2 devices, 8 devices in 2 stages, 64 devices in 16 stages.

The numbers are round and consistent (bottleneck formula, 20 bytes a parameter), not the answer of a search.
"""

from dataclasses import replace

from planner.core.hardware import Cluster, Device, Link
from planner.core.layout import Placement, placed
from planner.core.plan import (
    SCHEMA_VERSION,
    Baseline,
    Collective,
    LayerInfo,
    MemoryParts,
    OpInfo,
    ParamPlan,
    PlanRecord,
    StagePlan,
    TimeParts,
)

OPS = ("dot_general", "add", "exp", "dot_general", "reduce_sum", "mul", "dot_general", "tanh", "dot_general", "add")
"""A layer's operators, in order."""


def cluster(nodes: int, devices_per_node: int) -> Cluster:
    device = Device("V100-SXM2-16GB", (("bfloat16", 125e12), ("default", 15.7e12)), 0.5, 16 * 10**9, 8e11, 5e-6)
    return Cluster("p3.16xlarge", device, nodes, devices_per_node, Link(5e10, 5e-6), Link(3.1e9, 2e-5),
                   sources=(("device.memory_bytes", "data sheet"),))


def two_devices() -> PlanRecord:
    """One stage on two devices, data parallel, as on a laptop."""
    return record(cluster(1, 2), stage_count=1, layer_count=2, hidden=256, batch=16, microbatches=1,
                  mesh=((2,), ("data",)))


def eight_devices() -> PlanRecord:
    """Two stages of four devices, each `data=2, model=2`; a warning, a pin, pruned candidates."""
    return record(cluster(1, 8), stage_count=2, layer_count=12, hidden=768, batch=64, microbatches=8,
                  mesh=((2, 2), ("data", "model")))


def sixty_four_devices() -> PlanRecord:
    """GPT-39B on eight nodes: sixteen stages of four devices, 256 microbatches."""
    return record(cluster(8, 8), stage_count=16, layer_count=48, hidden=8192, batch=1024, microbatches=256,
                  mesh=((4,), ("model",)))


def vee() -> PlanRecord:
    """Eight stages under ZB-V, out over four ranks of two devices and back."""
    plan = record(cluster(1, 16), stage_count=8, layer_count=24, hidden=768, batch=64, microbatches=8,
                  mesh=((2,), ("data",)))
    layout = placed(Placement.VEE, 4)
    stages = tuple(replace(s, devices=(2 * rank, 2 * rank + 1)) for s, rank in
                   zip(plan.stages, layout.rank_of, strict=True))
    return replace(plan, cluster=cluster(1, 8), device_count=8, schedule="zb-v", stages=stages)


def record(on: Cluster, *, stage_count: int, layer_count: int, hidden: int, batch: int, microbatches: int,
           mesh: tuple[tuple[int, ...], tuple[str, ...]]) -> PlanRecord:
    per = layer_count // stage_count
    layers = tuple(_layer(n, layer_count, hidden) for n in range(layer_count))
    stages = tuple(_stage(s, stage_count, per, hidden, microbatches, mesh, batch // microbatches)
                   for s in range(stage_count))
    slowest = max(s.time.microbatch_s + s.send_s for s in stages)
    step = sum(s.time.microbatch_s + s.send_s for s in stages) + (microbatches - 1) * slowest + max(
        s.time.batch_s for s in stages)
    return PlanRecord(
        schema_version=SCHEMA_VERSION, planner_version="0.1.0", model_name=f"gpt {layer_count}x{hidden}", kind="train",
        fingerprint="f1" * 32, cluster=on, device_count=on.device_count, batch_size=batch, microbatches=microbatches,
        schedule="1f1b" if stage_count > 1 else "gpipe", stages=stages,
        params=_params(layer_count, per, hidden, len(mesh[0])), layers=layers, ops=_ops(layer_count),
        step_time_s=step, lower_bound_s=0.96 * step,
        model_flops=6 * 12 * hidden * hidden * layer_count * batch * 1024, compute_dtype="bfloat16",
        baselines=(
            Baseline("data", 1.31 * step if stage_count < 3 else None, on.device.memory_bytes * 3, stage_count < 3,
                     "" if stage_count < 3 else "needs 48.0 GB a device, 16.0 GB there"),
            Baseline("fsdp", 1.12 * step, int(0.8e10), True),
            Baseline("tensor", 2.4 * step, int(0.6e10), True),
            Baseline("even pipeline", 1.05 * step, int(1.1e10), True),
        ),
        pins=(("microbatches", str(microbatches)),) if stage_count == 2 else (),
        pruned=(("stage slower than the best found", 812), ("does not fit in memory", 57)) if stage_count > 1 else (),
        phases_s=(("trace", 0.8), ("intra-operator", 2.9), ("stages", 0.2)),
        warnings=("no rule for 'eigh': replicated (model.py:42 (head))",) if stage_count == 2 else (),
    )


def _layer(n: int, count: int, hidden: int) -> LayerInfo:
    ops = len(OPS)
    return LayerInfo((n * ops, (n + 1) * ops), 0 if n < count - 1 else 1, "block" if n < count - 1 else "head",
                     24 * hidden * hidden * 1024, 12 * hidden * hidden * 2, 1024 * hidden * 2)


def _stage(s: int, count: int, per: int, hidden: int, microbatches: int, mesh: tuple[tuple[int, ...], tuple[str, ...]],
           samples: int) -> StagePlan:
    shape, axes = mesh
    size = 1
    for n in shape:
        size *= n
    weights = 12 * hidden * hidden * per
    tokens = 1024 * samples
    compute = 72 * hidden * hidden * per * tokens / (size * 6e13) * (1.15 if s == count // 2 else 1.0)
    in_flight = min(microbatches, count - s)
    model = "model" in axes
    return StagePlan(
        index=s, layers=(s * per, (s + 1) * per), ops=(s * per * len(OPS), (s + 1) * per * len(OPS)),
        devices=tuple(range(s * size, (s + 1) * size)), mesh_shape=shape, mesh_axes=axes,
        specs=((3 * s, ((0,), ())), (3 * s + 1, ((), (len(shape) - 1,)))), uses=((7, 1, ((), ())),),
        recompute=tuple(range(s * per, (s + 1) * per)) if count > 4 and s < 8 else (), in_flight=in_flight,
        time=TimeParts(compute, 0.2 * compute if model else 0.0, 0.04 * compute,
                       0.0 if axes == ("model",) else 0.3 * compute, 0.1 * compute),
        memory=MemoryParts(6 * weights // size, 8 * weights // size, 4 * weights // size,
                           per * in_flight * tokens * hidden * 2, tokens * hidden * 16),
        collectives=(
            Collective("all-reduce", (len(shape) - 1,), 1024 * hidden * 2, 0.2 * compute if model else 0.0,
                       "microbatch", "forward", "dot_general model.py:18 (mlp)"),
            Collective("all-gather", (0,), weights * 2, 0.04 * compute, "microbatch", "forward", "blocks/0/wq"),
            Collective("all-reduce", (0,), weights * 4, 0.3 * compute, "batch", "update", "blocks/0/wq"),
        ),
        send_s=0.02 * compute if count > 1 else 0.0, gap=0.0 if s % 3 else 0.012,
        status="optimal" if s % 3 else "feasible", solver="elimination",
        summary="batch over data (2), heads and hidden over model (2)" if len(shape) == 2
        else f"{'heads and hidden' if model else 'batch'} over {axes[0]} ({shape[0]})",
    )


def _params(layers: int, per: int, hidden: int, dims: int) -> tuple[ParamPlan, ...]:
    last = (dims - 1,)
    kinds = (("wq", (hidden, hidden), ((), last)), ("wo", (hidden, hidden), (last, ())),
             ("w_up", (hidden, 4 * hidden), ((0,), last) if dims == 2 else ((), last)), ("bias", (hidden,), ((),)))
    made = [ParamPlan("params/embed", None, 0, (51200, hidden), "float32", (last, ()), (last, ()), False, 0)]
    for n in range(layers):
        for k, (name, shape, spec) in enumerate(kinds):
            made.append(ParamPlan(f"params/blocks/{n}/{name}", None, 1 + 4 * n + k, shape, "float32", spec, spec,
                                  dims == 2, n // per))
    return tuple(made)


def _ops(layers: int) -> tuple[OpInfo, ...]:
    made: list[OpInfo] = []
    for n in range(layers):
        first = n * len(OPS)
        for k, name in enumerate(OPS):
            reads = (first + k - 1,) if first + k else ()
            if k in (5, 9) and first + k >= 4:
                reads += (first + k - 4,)
            made.append(OpInfo(name, n, 10**9 if name == "dot_general" else 10**6, reads, f"model.py:{10 + k} (block)"))
    return tuple(made)
