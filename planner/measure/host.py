"""How fast devices and their host's memory exchange arrays: each way alone, and both at once, all devices busy.

In: devices. Out: `core.hardware.HostLink`; None where devices reach no host memory.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from planner.core.host import HostLink
from planner.core.plan import DEVICE, HOST
from planner.measure.pace import Allowance
from planner.measure.timing import Devices, Reading, time_in_turn

_SMALL = 1 << 10
"""Elements of the array whose time is taken for latency."""

_REPEATS = 7


def host_link(devices: Devices, elements: int, allowance: Allowance) -> tuple[HostLink, Reading] | None:
    """Time arrays of so many float32 elements a device on their way between the memories."""
    if HOST not in {m.kind for m in devices[0].addressable_memories()}:
        return None
    small = time_in_turn(_moves(devices, _SMALL), _REPEATS, allowance)
    large = time_in_turn(_moves(devices, elements), _REPEATS, allowance)
    latency = min(t.typical_s for t in small)
    out, back, both = (4 * elements / max(t.typical_s - s.typical_s, t.typical_s / 4)
                       for s, t in zip(small, large, strict=True))
    how = f"device_put of {4 * elements >> 20} MiB a device to {HOST} and back, each way alone and both at once"
    return (HostLink(back, out, min(both, out, back), latency, memory_bytes()),
            Reading(both, max(t.spread for t in large), how))


def memory_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _moves(devices: Devices, elements: int) -> Sequence[Callable[[], Any]]:
    """To the host, to the devices, both."""
    mesh = Mesh(np.array(devices), ("device",))
    here, there = (NamedSharding(mesh, PartitionSpec("device"), memory_kind=kind) for kind in (DEVICE, HOST))
    on_devices = jax.device_put(jnp.ones((len(devices), elements), jnp.float32), here)
    on_host = jax.device_put(on_devices, there)
    return (lambda: jax.device_put(on_devices, there), lambda: jax.device_put(on_host, here),
            lambda: (jax.device_put(on_devices, there), jax.device_put(on_host, here)))
