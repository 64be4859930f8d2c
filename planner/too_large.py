"""Where nothing fits: what it would take at least, known before all was tried, and what is said of it.

In: tables of the meshes looked at, the `Run` of a search. Out: bytes, an error.
"""

from collections.abc import Mapping

import numpy as np

from planner.core.graph import Role
from planner.core.hardware import Cluster
from planner.costs.memory import itemsize, sum_itemsize
from planner.errors import MemoryLimitError, PlannerError
from planner.intraop.compose import SliceTable
from planner.prepared import Prepared
from planner.record import Run
from planner.request import Request
from planner.spaces import MeshSpace


def least_peak(request: Request, tables: Mapping[MeshSpace, SliceTable]) -> float:
    """The least bytes per device with which the whole model in one stage runs, on all devices."""
    whole = [t for t in tables.values() if t.mesh.device_count == request.cluster.device_count]
    return min((float(t.useful.of(t.of(0, len(t.entering_bytes) - 1)).memory_bytes(1).min(initial=np.inf))
                for t in whole), default=float("inf"))


def least_held(prepared: Prepared, tables: Mapping[MeshSpace, SliceTable]) -> float:
    """Bytes that the devices of any pipeline hold for good together, at least, whatever the number of microbatches: of
    each layer, on the mesh where its parameters, their gradients and optimizer state take least in all. 0 where a table
    left out what memory would have it save, as all fits."""
    if any(len(t.multipliers) == 1 for t in tables.values()):
        return 0.0
    each = [t.mesh.device_count * np.array([t.useful.of(t.of(n, n)).parts[:, 3].min(initial=np.inf)
                                            for n in range(len(prepared.layers))])
            for t in tables.values()]
    micro = prepared.program.micro
    dtypes = {micro.values[i.value].dtype for i in micro.inputs_of(Role.PARAM)}
    wider = any(sum_itemsize(d) > itemsize(d) for d in dtypes)  # one microbatch has no sums of gradients
    return float(np.min(each, axis=0).sum()) / (2 if wider else 1)


def is_too_large(request: Request, run: Run) -> bool:
    """Whether what all devices hold for good at least is more than they may: no number of microbatches helps."""
    return run.best is None and run.held > usable_bytes(request.limits)


def usable_bytes(cluster: Cluster) -> float:
    """Of all devices together."""
    return sum(kind.device_count * kind.device.usable_bytes for kind in cluster.kinds)


def too_large(request: Request, run: Run) -> PlannerError:
    """What to say of a search that found nothing."""
    usable, margin = request.cluster.device.usable_bytes, request.cluster.device.memory_margin
    missing = run.least_peak - usable
    where = request.cluster.described
    if run.least_peak == float("inf") or missing <= 0:
        return MemoryLimitError(f"no plan for {request.model_name!r} fits {where} under the pins given",
                                "drop a pin, use more devices, or allow recomputation")
    factor = run.least_peak / usable
    return MemoryLimitError(
        f"{request.model_name!r} needs at least {run.least_peak / 1e9:.4g} GB per device on {where}: "
        f"{missing / 1e9:.4g} GB per device are missing ({int(missing)} bytes; {margin:.0%} are kept free)",
        f"use about {int(request.cluster.device_count * factor * 1.1) + 1} such devices, or devices of at least "
        f"{run.least_peak * 1.1 / 1e9:.4g} GB", int(run.least_peak))
