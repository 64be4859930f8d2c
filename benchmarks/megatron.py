"""A training step of GPT as Megatron-LM runs it on GPUs, priced by the cost functions that the planner searches with.

Megatron is not JAX: PyTorch launches its kernels one by one, and few of them are fused. So its kernels are listed here,
and what its runtime adds stands in `Runtime`: constants that are fitted, on other runs than those they are judged by.

In: sizes of a model, degrees of parallelism, a cluster. Out: seconds.
"""

from dataclasses import dataclass
from functools import cache
from math import log2

import numpy as np

from planner.core.hardware import Cluster, LogicalMesh, Submesh
from planner.costs.collectives import all_reduce_s
from planner.costs.compute import traffic_s
from planner.costs.matmuls import MatmulSizes, matmuls_s
from planner.costs.topology import logical_mesh, stage_link

VOCABULARY = 51200
"""Megatron's GPT-2 vocabulary of 50,257, padded to a multiple of 128 times the tensor-parallel degree."""

KERNELS = 70
"""Kernels of a layer, forward and backward: 18 matmuls, and norms, biases, dropouts, softmax, casts between them."""


@dataclass(frozen=True)
class Run:
    """One training run: sizes, degrees of tensor, data and pipeline parallelism, sequences of a microbatch."""

    batch: int
    microbatch: int
    hidden: int
    heads: int
    layers: int
    sequence: int
    tensor: int
    data: int
    pipeline: int
    recompute: bool = False  # every layer's forward again before its backward

    @property
    def microbatches(self) -> int:
        """Of one replica."""
        return self.batch // self.microbatch // self.data

    @property
    def devices(self) -> int:
        """GPUs."""
        return self.tensor * self.data * self.pipeline


@dataclass(frozen=True)
class Runtime:
    """What PyTorch and Megatron add to the hardware.

    Attributes:
      launch_s: of the host for one kernel, which runs ahead of the GPU unless the GPU is faster.
      call_s: that one collective waits for the last of its hosts, per doubling of them.
      matmul: part of the tile model's speed that matmuls reach.
      score_passes: times that attention scores go through memory, forward and backward.
      width_passes: times that a layer's input does; activations that tensor parallelism does not split.
      inner_passes: times that what tensor parallelism splits does, in units of a layer's input.
      logit_passes: times that logits do, in four bytes.
      whole_passes: times more where one device has the whole vocabulary.
      wire: part of the profile's bandwidth that collectives reach.
      update_bytes: moved per parameter in the optimizer's step.
      apart: how well host and GPU run side by side: with 2 equal times take 1.41 times as long as one, with 12, 1.06.
    """

    launch_s: float
    call_s: float
    matmul: float
    score_passes: float
    width_passes: float
    inner_passes: float
    logit_passes: float
    whole_passes: float
    wire: float
    update_bytes: float
    apart: float


PLAIN = Runtime(20e-6, 20e-6, 0.9, 20.0, 30.0, 16.0, 8.0, 8.0, 0.8, 40.0, 4.0)
"""Where fits start. [chosen]"""


def step_s(run: Run, cluster: Cluster, runtime: Runtime) -> float:
    """Seconds of one step: microbatches through the slowest stage after the pipeline is filled, then gradients and
    update (Narayanan et al. 2021, §2.2)."""
    layer = layer_s(run.hidden, run.heads, run.sequence, run.microbatch, run.tensor, cluster, runtime)
    layer *= 4 / 3 if run.recompute else 1  # a backward takes twice a forward, in matmuls, calls and bytes
    head = head_s(run.hidden, run.sequence, run.microbatch, run.tensor, cluster, runtime)
    stage = run.layers / run.pipeline * layer
    send = 2 * _send_s(run, cluster) if run.pipeline > 1 else 0.0
    steady = run.microbatches * (stage + head + send)
    return steady + (run.pipeline - 1) * (stage + send) + _finish_s(run, cluster, runtime)


@cache
def layer_s(hidden: int, heads: int, sequence: int, microbatch: int, tensor: int, cluster: Cluster,
            runtime: Runtime) -> float:
    """Forward and backward of one layer of one microbatch: what the GPU needs, or the host if it needs longer."""
    tokens, split, each = microbatch * sequence, microbatch * heads // tensor, hidden // heads
    products = [(1, tokens, 3 * hidden // tensor, hidden), (1, tokens, hidden, hidden // tensor),
                (1, tokens, 4 * hidden // tensor, hidden), (1, tokens, hidden, 4 * hidden // tensor),
                (split, sequence, sequence, each), (split, sequence, each, sequence)]
    arithmetic = sum(_trained_s(cluster, *sizes) for sizes in products) / runtime.matmul
    width = 2.0 * tokens * hidden
    moved = sum(count * float(traffic_s(np.array(size), cluster.device)) for count, size in (
        (runtime.score_passes, 2.0 * split * sequence * sequence), (runtime.width_passes, width),
        (runtime.inner_passes, width / tensor)))
    calls = 4 * _reduce_s(width, tensor, cluster, runtime)
    host = KERNELS * runtime.launch_s + 4 * log2(tensor) * runtime.call_s
    return _longer(arithmetic + moved + calls, host, runtime)


@cache
def head_s(hidden: int, sequence: int, microbatch: int, tensor: int, cluster: Cluster, runtime: Runtime) -> float:
    """Forward and backward of embedding, logits and loss of one microbatch."""
    tokens = microbatch * sequence
    arithmetic = _trained_s(cluster, 1, tokens, VOCABULARY // tensor, hidden) / runtime.matmul
    passes = runtime.logit_passes + (runtime.whole_passes if tensor == 1 else 0.0)
    moved = passes * float(traffic_s(np.array(4.0 * tokens * VOCABULARY / tensor), cluster.device))
    calls = 2 * _reduce_s(2.0 * tokens * hidden, tensor, cluster, runtime)
    return _longer(arithmetic + moved + calls, KERNELS / 2 * runtime.launch_s, runtime)


def _longer(gpu_s: float, host_s: float, runtime: Runtime) -> float:
    """The longer of two that run side by side, and more where neither is much longer."""
    return (gpu_s**runtime.apart + host_s**runtime.apart) ** (1 / runtime.apart)


def _trained_s(cluster: Cluster, batch: int, m: int, n: int, k: int) -> float:
    """A product and the gradients of its two operands."""
    shapes = ((batch, m, n, k), (batch, m, k, n), (batch, k, n, m))
    sizes = MatmulSizes(*np.array(shapes, dtype=float).T)
    return float(matmuls_s(sizes, "float16", cluster.device).sum())


def _reduce_s(size_bytes: float, devices: int, cluster: Cluster, runtime: Runtime, *, apart: int = 1) -> float:
    """An all-reduce of devices that are `apart` from each other."""
    if devices == 1:
        return 0.0
    mesh = _mesh(cluster, devices, apart)
    return all_reduce_s(size_bytes / runtime.wire, (0,), mesh)


@cache
def _mesh(cluster: Cluster, devices: int, apart: int) -> LogicalMesh:
    """`devices` by `apart`, on as few nodes as hold them."""
    count = devices * apart
    nodes = next(n for n in range(-(-count // cluster.devices_per_node), count + 1) if count % n == 0)
    return logical_mesh(cluster, Submesh(nodes, count // nodes), (devices, apart))


def _send_s(run: Run, cluster: Cluster) -> float:
    """Activations of one microbatch to the next stage, a part from each tensor-parallel device."""
    link = stage_link(cluster, same_node=run.devices <= cluster.devices_per_node)
    size = 2.0 * run.microbatch * run.sequence * run.hidden / run.tensor
    return link.latency_s + size / link.bandwidth_bytes_per_s


def _finish_s(run: Run, cluster: Cluster, runtime: Runtime) -> float:
    """Gradients of the fullest stage summed over replicas, and the update."""
    params = (12 * run.hidden**2 * run.layers / run.pipeline + VOCABULARY * run.hidden) / run.tensor
    tied = _reduce_s(2.0 * VOCABULARY * run.hidden / run.tensor, 2, cluster, runtime, apart=run.tensor) \
        if run.pipeline > 1 else 0.0
    update = runtime.update_bytes * params / cluster.device.memory_bandwidth_bytes_per_s
    return update + tied + _reduce_s(2.0 * params, run.data, cluster, runtime, apart=run.tensor)
