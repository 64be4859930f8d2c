"""Seconds of a kernel of fused operators per strategy: its arithmetic or its traffic, whichever takes longer, and its
start.

In: a `Kernel`, what one device has of it under each strategy. Out: seconds per strategy.
"""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from planner.core.hardware import Device
from planner.costs.compute import partly_cold_s
from planner.intraop.fused import Kernel
from planner.intraop.setting import Array


def kernel_s(kernel: Kernel, shards: Callable[[Iterable[int]], Array], size: Callable[[Iterable[int]], Array],
             thin: Callable[[int], NDArray[np.bool_]], device: Device) -> Array:
    """See the module.

    Args:
      shards: into how many parts dimension classes together are cut.
      size: bytes of values on one device.
      thin: whether a value has a dimension of one element there.
      device: one of the mesh.
    """
    traffic = partly_cold_s(size(kernel.outer), size(kernel.cold), device)
    if kernel.product is not None and device.thin_sums > 1:
        traffic = np.where(thin(kernel.product), device.thin_sums, 1.0) * traffic
    arithmetic = np.zeros_like(traffic)
    for factors, flops, transcendentals in kernel.work:
        parts = shards(factors)
        arithmetic = arithmetic + flops / parts / device.flops_per_s("default")
        if device.transcendentals_per_s is not None:
            arithmetic = arithmetic + transcendentals / parts / device.transcendentals_per_s
    return np.maximum(arithmetic, traffic) + device.launch_s * kernel.launches
