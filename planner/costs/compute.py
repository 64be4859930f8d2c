"""The sides of one device's roofline: memory traffic, and what convolutions reach of the rate of matmuls.

An operator takes as long as its arithmetic at the reachable rate, or its memory traffic at the sustained bandwidth,
whichever is longer, and a fixed cost on top (Williams, Waterman, Patterson, CACM 2009); `intraop/group_price.py` puts
it together. How fast matmuls run depends on their shape, which `matmuls.py` prices. Convolutions may reach less of that
rate, most of all gradients of filters and convolutions of few features (`core.hardware.ConvolutionRates`).

In: work done by one device (already divided by its shards). Out: seconds.
"""

import numpy as np
from numpy.typing import NDArray

from planner.core.hardware import Device

Array = NDArray[np.float64]

FORWARD, INPUT_GRADIENT, FILTER_GRADIENT = "forward", "input_gradient", "filter_gradient"
"""What a convolution computes; fields of `core.hardware.ConvolutionRates`."""


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
