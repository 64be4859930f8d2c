"""Whether the devices at hand have the memory that a plan was made for: JAX may use less of it than a profile says.

By default JAX takes three quarters of a GPU's memory (`XLA_PYTHON_CLIENT_MEM_FRACTION`). In: a plan, devices. Out:
warnings.
"""

from collections.abc import Sequence
from typing import Any

import jax

from planner.core.plan import PlanRecord


def tight_devices(record: PlanRecord, devices: Sequence[Any]) -> tuple[str, ...]:
    """A warning for each rank with devices of this process that may not hold what is predicted for them."""
    found: list[str] = []
    for rank, need in enumerate(record.rank_bytes):
        stages = record.layout.stages_of(rank)
        mine = [devices[d] for d in record.stages[stages[0]].devices]
        limits = [limit for device in mine if (limit := _limit_bytes(device)) is not None]
        if limits and need > min(limits):
            names = ", ".join(str(s) for s in stages)
            found.append(f"stage {names} is predicted to need {need / 1e9:.4g} GB of each device, of which JAX may use "
                         f"{min(limits) / 1e9:.4g} GB: on GPUs, set XLA_PYTHON_CLIENT_MEM_FRACTION (0.75 unless set) "
                         "higher, or plan for that much memory")
    return tuple(found)


def _limit_bytes(device: Any) -> int | None:
    """The most that JAX will use of a device; None where it does not say, or the device is not this process's."""
    if device.process_index != jax.process_index():
        return None
    try:
        stats = device.memory_stats()
    except jax.errors.JaxRuntimeError:  # a device of a topology that is not there
        return None
    return int(stats["bytes_limit"]) if stats and "bytes_limit" in stats else None
