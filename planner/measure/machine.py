"""A `Cluster` of the devices at hand, timed with all of them busy, and kept for the next time.

In: devices, a budget of seconds, a folder. Out: a `Cluster` of one node; a profile file in the folder.
"""

import datetime
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import jax

from planner.core.hardware import Cluster, Device, Link, Overlap
from planner.errors import MeshError
from planner.measure.arithmetic import exposed_traffic, relayout_slowdown, speed_alone, transcendental_rate
from planner.measure.communication import Senders, collective_times, hand_over
from planner.measure.convolution import ConvolutionTimer, convolution_rates
from planner.measure.fixed import FixedCosts, fixed_costs, kernel_cost
from planner.measure.habits import adds_then_sums, kernel_per_result, merges, sums_then_slices
from planner.measure.host import host_link
from planner.measure.matmul_grid import GridReading, MatmulTimer, matmul_grid
from planner.measure.memory import memory_rates
from planner.measure.overlap import Beside, overlap
from planner.measure.pace import Clock, Pace, Progress
from planner.measure.sizes import Sizes, sizes_for
from planner.measure.timing import Devices, Reading
from planner.profiles import read_profile, write_profile

BUDGET_S = 150.0
"""Seconds that measuring may take unless told otherwise."""

_SMALL, _MEMORY, _MATMULS, _CONVOLUTIONS = "small operators", "memory", "matmuls", "convolutions"
_KERNELS, _HOST = "kernels of a model", "host memory"
_COLLECTIVES, _HAND_OVER, _OVERLAP = "collectives", "hand-over between stages", "overlap with compute"
_COMPILER = "compiler's habits"

_SECONDS = ((_SMALL, 5.0), (_MEMORY, 12.0), (_MATMULS, 67.0), (_CONVOLUTIONS, 12.0), (_KERNELS, 2.0), (_HOST, 3.0))
"""What is measured of a device, and how the budget is divided: in seconds of 150 on eight CPU devices. [chosen]"""

_SECONDS_BETWEEN = ((_COLLECTIVES, 45.0), (_HAND_OVER, 4.0), (_OVERLAP, 6.0), (_COMPILER, 3.0))
"""The same of what is between devices."""


def local_cluster(devices: Devices, cache_dir: Path | str, *, sizes: Sizes | None = None,
                  progress: Progress | None = None) -> Cluster:
    """The cluster of these devices: as measured before, or measured now and kept.

    Args:
      devices: what the mesh will hold.
      cache_dir: folder of kept profiles; one file for each platform, kind and number of devices and version of JAX.
      sizes, progress: as of `measure`.

    Raises:
      MeshError: no devices.
      ProfileError: the kept profile is corrupt, or can't be written.
    """
    path = Path(cache_dir) / f"{_key(devices)}.json"
    if path.exists():
        return read_profile(path)
    cluster = measure(devices, sizes=sizes, progress=progress)
    write_profile(cluster, path, f"measured by planner on {_today()}")
    return cluster


def measure(devices: Devices | None = None, *, budget_s: float = BUDGET_S, sizes: Sizes | None = None,
            progress: Progress | None = None, clock: Clock = time.perf_counter) -> Cluster:
    """Time these devices, with all of them busy.

    Args:
      devices: all local ones by default.
      budget_s: about how long it may take; repeats and the grid of matmuls adapt.
      sizes: what is timed; default: what suits the devices' platform.
      progress: told what is going on.
      clock: what tells the time.

    Raises:
      MeshError: no devices.
      PlannerError: the budget is not a number above zero.
    """
    devices = jax.local_devices() if devices is None else list(devices)
    if not devices:
        raise MeshError("no devices to measure", "give at least one")
    sizes = sizes or sizes_for(devices[0].platform)
    parts = _SECONDS + (_SECONDS_BETWEEN if len(devices) > 1 else ())
    pace = Pace.of(parts, budget_s, progress or (lambda what, share: None), clock)
    device, sources = _measure_device(devices, sizes, pace)
    host = host_link(devices, sizes.messages[-1], pace.take(_HOST))
    if host is not None:
        sources["host"] = _reading_source(devices, host[1])
    link, link_sources = _measure_links(devices, Senders(devices, sizes.messages, device.flops_per_s("float32")), pace)
    habits = (False, devices[0].platform == "gpu", False)  # a single device shows none: those of XLA for GPUs
    hides: Overlap | None = None
    if len(devices) > 1:
        hides, reading = overlap(Beside(devices, sizes.overlapped, device.flops_per_s("float32")), pace.take(_OVERLAP))
        link_sources["overlap"] = _reading_source(devices, reading)
        pace.take(_COMPILER)
        habits = (sums_then_slices(devices), adds_then_sums(devices), merges(devices))
    pace.told("done", 1.0)
    return Cluster(
        name=f"{devices[0].platform}-{len(devices)}", device=device, nodes=1, devices_per_node=len(devices),
        intra_node=link, inter_node=Link(link.bandwidth_bytes_per_s, link.latency_s),
        reduce_scatter_as_all_reduce=habits[0], adds_before_all_reduce=habits[1], merges_all_reduces=habits[2],
        overlap=hides, host=host[0] if host else None, sources=tuple((sources | link_sources).items()))


def _measure_device(devices: Devices, sizes: Sizes, pace: Pace) -> tuple[Device, dict[str, str]]:
    small = pace.take(_SMALL)
    fixed = fixed_costs(devices, small, queues=sizes.queues)
    exponentials = transcendental_rate(devices, sizes.exponentials, small)
    relayout, alone = relayout_slowdown(devices, small), speed_alone(devices, small)
    room = pace.take(_MEMORY)
    memory = memory_rates(devices, sizes, fixed, room)
    on_cpu = devices[0].platform == "cpu"
    exposed = exposed_traffic(devices, memory.reading.value, room) if on_cpu else Reading(0.0, 0.0, "")
    grids = {dtype: matmul_grid(MatmulTimer(devices, dtype, fixed, sizes.copies), sizes.sides, sizes.batches, part)
             for dtype, part in pace.take(_MATMULS).each(sizes.dtypes)}
    efficiency = median(share for found in grids.values() for share in found.large_shares())
    best = grids["float32"].best.value
    timer = ConvolutionTimer(devices, sizes.images, efficiency * best, fixed.call_s)
    convolutions, convolved = convolution_rates(timer, pace.take(_CONVOLUTIONS))
    device = Device(
        name=devices[0].device_kind,
        peak_flops_per_s=(*((dtype, found.best.value) for dtype, found in grids.items()), ("default", best)),
        matmul_efficiency=efficiency, memory_bytes=_memory_bytes(devices),
        memory_bandwidth_bytes_per_s=memory.reading.value, launch_s=0.0,
        dispatch_s=fixed.dispatch.value, result_s=fixed.result.value,
        transcendentals_per_s=exponentials.value if on_cpu else None,
        convolutions=convolutions, matmuls=tuple(found.grid for found in grids.values()), caches=memory.caches,
        exposed_traffic=exposed.value, relayout=relayout.value if on_cpu else None,
        alone=alone.value if on_cpu else 1.0, kernel_per_result=kernel_per_result(devices))
    launch = kernel_cost(devices, device, fixed.call_s, pace.take(_KERNELS))
    device = replace(device, launch_s=launch.value)
    readings = {"launch_s": launch, "memory_bandwidth_bytes_per_s": memory.reading, "convolutions": convolved}
    if on_cpu:
        readings |= {"transcendentals_per_s": exponentials, "relayout": relayout}
        if exposed.value:
            readings["exposed_traffic"] = exposed
        if device.alone > 1:
            readings["alone"] = alone
    if memory.caches:
        readings["caches"] = memory.reading
    return device, _device_sources(devices, fixed, grids, readings)


def _device_sources(devices: Devices, fixed: FixedCosts, grids: dict[str, GridReading],
                    readings: dict[str, Reading]) -> dict[str, str]:
    """Where each number of the device is from."""
    every = "; ".join(f"{found.best.how}, spread {found.best.spread:.0%}" for found in grids.values())
    sources = {f"device.peak_flops_per_s.{dtype}": "the best of the grid" for dtype in grids}
    sources |= {
        "device.peak_flops_per_s.default": "the float32 rate",
        "device.matmul_efficiency": "median over grids of rate / best rate, shapes of the two largest sizes each way",
        "device.memory_bytes": "the runtime's limit, or the machine's memory divided by its devices",
        "device.matmuls": _source(devices, every)}
    readings = {"dispatch_s": fixed.dispatch, "result_s": fixed.result, **readings}
    return sources | {f"device.{name}": _reading_source(devices, reading) for name, reading in readings.items()}


def _measure_links(devices: Devices, senders: Senders, pace: Pace) -> tuple[Link, dict[str, str]]:
    sources = {"devices_per_node": "counted"}
    if len(devices) == 1:
        sources |= {"intra_node": "a single device has no links: any number would do",
                    "inter_node": "a single device has no links: any number would do"}
        return Link(1e9, 0.0), sources
    groups = [n for n in range(2, len(devices) + 1) if len(devices) % n == 0]
    measured = [found for group, part in pace.take(_COLLECTIVES).each(groups)
                for found in collective_times(senders, group, part)]
    latency, rate, reading = hand_over(devices, senders.messages, pace.take(_HAND_OVER))
    sources |= {
        "intra_node.bandwidth_bytes_per_s": _reading_source(devices, reading),
        "intra_node.latency_s": _reading_source(devices, reading),
        "intra_node.measured": _reading_source(devices, Reading(
            0.0, median(spread for _, spread in measured),
            f"8 collectives in a program, less one without, groups of {groups}; fixed time of 4 KiB with a millisecond "
            f"of work before each, time per byte from {len(senders.messages)} sizes without work")),
        "inter_node": "as within the node: there is only one"}
    return Link(rate, latency, tuple(fit for fit, _ in measured)), sources


def _memory_bytes(devices: Devices) -> int:
    stats = devices[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(devices)


def _reading_source(devices: Devices, reading: Reading) -> str:
    return _source(devices, f"{reading.how}; spread {reading.spread:.0%}")


def _source(devices: Devices, how: str) -> str:
    return f"measured {_today()}, jax {jax.__version__}, {len(devices)} x {devices[0].device_kind} all busy: {how}"


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _key(devices: Devices) -> str:
    if not devices:
        raise MeshError("no devices to measure", "give at least one")
    first = devices[0]
    text = f"{first.platform}-{first.device_kind}-{len(devices)}-{os.cpu_count()}cores-jax{jax.__version__}"
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).lower()
