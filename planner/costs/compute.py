"""Time of one operator on one device: the roofline.

An operator takes as long as its arithmetic at the reachable rate, or its memory traffic at the sustained bandwidth,
whichever is longer, and a fixed cost on top (Williams, Waterman, Patterson, CACM 2009).

How fast matmuls run depends on their shape, which `matmuls.py` prices. Convolutions may reach less of that rate, most
of all gradients of filters and convolutions of few features (`core.hardware.ConvolutionRates`).

In: work done by one device (already divided by its shards). Out: seconds.
"""

import numpy as np
from numpy.typing import NDArray

from planner.core.hardware import Device

Array = NDArray[np.float64]

FORWARD, INPUT_GRADIENT, FILTER_GRADIENT = "forward", "input_gradient", "filter_gradient"
"""What a convolution computes; fields of `core.hardware.ConvolutionRates`."""


def op_time_s(flops: float, size_bytes: float, dtype: str, device: Device, *, transcendentals: float = 0,
              fused: bool = False) -> float:
    """Seconds for one operator on one device.

    Args:
      flops: floating-point operations of this device's share, a multiply-add counted as two.
      size_bytes: bytes it reads from and writes to device memory.
      dtype: of its operands (`"bfloat16"`), which sets the arithmetic rate.
      device: the accelerator.
      transcendentals: elements of this device's share that go through exp, log, tanh, ...; they count on CPUs.
      fused: the compiler merges it into a neighbour, so that it has no fixed cost of its own.
    """
    arithmetic = matmul_s(flops, dtype, device)
    if transcendentals and device.transcendentals_per_s is not None:
        arithmetic += transcendentals / device.transcendentals_per_s
    return (0.0 if fused else device.launch_s) + max(arithmetic, memory_s(size_bytes, device))


def matmul_s(flops: float, dtype: str, device: Device) -> float:
    """Seconds of arithmetic alone, at the rate of large matmuls."""
    return flops / device.flops_per_s(dtype)


def memory_s(size_bytes: float, device: Device) -> float:
    """Seconds of memory traffic alone."""
    return float(traffic_s(np.array(float(size_bytes)), device))


def traffic_s(size_bytes: Array, device: Device) -> Array:
    """Seconds to move so many bytes, element by element: what fits into a cache at the cache's speed, the rest at that
    of the level below (Shi et al., Welder, OSDI'23: each level of memory has its own traffic)."""
    left, total = size_bytes, np.zeros_like(size_bytes)
    held = 0
    for level in device.caches:
        here = np.minimum(left, level.capacity_bytes - held)
        total = total + here / level.bandwidth_bytes_per_s
        left, held = left - here, level.capacity_bytes
    return total + left / device.memory_bandwidth_bytes_per_s


def is_memory_bound(flops: float, size_bytes: float, dtype: str, device: Device) -> bool:
    """Whether memory traffic takes longer than arithmetic."""
    return memory_s(size_bytes, device) > matmul_s(flops, dtype, device)


def convolution_efficiency(kind: str, features: NDArray[np.float64], device: Device) -> NDArray[np.float64]:
    """Part of the matmul rate that convolutions reach.

    Args:
      kind: `FORWARD`, `INPUT_GRADIENT` or `FILTER_GRADIENT`.
      features: input or output features on one device, whichever are fewer.
      device: the accelerator.
    """
    rates = device.convolutions
    if rates is None:
        return np.ones_like(features)
    wide = {FORWARD: rates.forward, INPUT_GRADIENT: rates.input_gradient, FILTER_GRADIENT: rates.filter_gradient}[kind]
    return wide * np.minimum(1.0, features / rates.full_width)
