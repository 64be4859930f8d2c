"""A `Cluster` of the devices at hand, timed with all of them busy, and kept for the next time.

In: devices, a folder. Out: a `Cluster` of one node; a profile file in the folder.
"""

import datetime
import os
import re
from collections.abc import Callable
from pathlib import Path

import jax

from planner.core.hardware import Cluster, Device, Link
from planner.errors import MeshError
from planner.measure.arithmetic import (
    Reading,
    launch_and_dispatch,
    matmul_rates,
    memory_rate,
    transcendental_rate,
)
from planner.measure.communication import adds_then_sums, collective_times, hand_over, merges, sums_then_slices
from planner.measure.convolution import convolution_rates
from planner.measure.timing import Devices
from planner.profiles import read_profile, write_profile

Progress = Callable[[str, float], None]
"""Told what is being measured, and the share that is done."""

_CPU_SIZES = (128, 256, 512)
_LARGE_SIZES = (1024, 2048, 4096)
"""Sides of the matmuls that are timed; accelerators need large ones to show what they can."""

_CPU_IMAGES, _LARGE_IMAGES = 8, 256
"""Images of a device whose convolution is timed."""

_CPU_ELEMENTS, _LARGE_ELEMENTS = 1 << 20, 1 << 26
"""Elements of the arrays whose traffic is timed: 4 MiB a device where devices share a CPU's caches, else 256 MiB."""


def local_cluster(devices: Devices, cache_dir: Path | str, *, progress: Progress | None = None) -> Cluster:
    """The cluster of these devices: as measured before, or measured now and kept.

    Args:
      devices: what the mesh will hold.
      cache_dir: folder of kept profiles; one file for each platform, kind and number of devices and version of JAX.
      progress: told what is going on while measuring.

    Raises:
      MeshError: no devices.
      ProfileError: the kept profile is corrupt, or can't be written.
    """
    path = Path(cache_dir) / f"{_key(devices)}.json"
    if path.exists():
        return read_profile(path)
    cluster = measure(devices, progress=progress)
    write_profile(cluster, path, f"measured by planner on {_today()}")
    return cluster


def measure(devices: Devices | None = None, *, progress: Progress | None = None) -> Cluster:
    """Time these devices (all local ones by default); takes one to two minutes on a CPU.

    Raises:
      MeshError: no devices.
    """
    devices = jax.local_devices() if devices is None else list(devices)
    if not devices:
        raise MeshError("no devices to measure", "give at least one")
    told = progress or (lambda what, share: None)
    device, sources = _measure_device(devices, told)
    link, link_sources = _measure_links(devices, device, told)
    told("done", 1.0)
    sources |= link_sources
    return Cluster(
        name=f"{devices[0].platform}-{len(devices)}", device=device, nodes=1, devices_per_node=len(devices),
        intra_node=link, inter_node=Link(link.bandwidth_bytes_per_s, link.latency_s),
        reduce_scatter_as_all_reduce=len(devices) > 1 and sums_then_slices(devices),
        adds_before_all_reduce=len(devices) > 1 and adds_then_sums(devices),
        merges_all_reduces=len(devices) > 1 and merges(devices), sources=tuple(sources.items()))


def _measure_device(devices: Devices, told: Progress) -> tuple[Device, dict[str, str]]:
    platform = devices[0].platform
    told("matmuls", 0.0)
    sizes = _CPU_SIZES if platform == "cpu" else _LARGE_SIZES
    rates = {dtype: matmul_rates(devices, dtype, sizes) for dtype in ("float32", "bfloat16")}
    told("memory", 0.2)
    elements = _CPU_ELEMENTS if platform == "cpu" else _LARGE_ELEMENTS
    memory = memory_rate(devices, elements)
    exponentials = transcendental_rate(devices, elements // 4)
    told("small operators", 0.25)
    launch, dispatch = launch_and_dispatch(devices)
    best = {dtype: max(readings, key=lambda r: r.value) for dtype, readings in rates.items()}
    shares = sorted(r.value / best[dtype].value for dtype, readings in rates.items() for r in readings)
    told("convolutions", 0.3)
    efficiency = shares[len(shares) // 2]
    rates, convolved = convolution_rates(devices, efficiency * best["float32"].value,
                                         _CPU_IMAGES if platform == "cpu" else _LARGE_IMAGES)
    device = Device(
        name=devices[0].device_kind,
        peak_flops_per_s=(*((dtype, r.value) for dtype, r in best.items()), ("default", best["float32"].value)),
        matmul_efficiency=efficiency, memory_bytes=_memory_bytes(devices),
        memory_bandwidth_bytes_per_s=memory.value, launch_s=launch.value, dispatch_s=dispatch.value,
        transcendentals_per_s=exponentials.value if platform == "cpu" else None,
        convolutions=rates)
    sources = {f"device.peak_flops_per_s.{dtype}": _source(devices, r) for dtype, r in best.items()}
    sources |= {
        "device.peak_flops_per_s.default": "the float32 rate",
        "device.matmul_efficiency": f"median over sizes {sizes} and dtypes of rate / best rate",
        "device.memory_bytes": "the runtime's limit, or the machine's memory divided by its devices",
        "device.memory_bandwidth_bytes_per_s": _source(devices, memory),
        "device.convolutions": _source(devices, convolved),
        "device.launch_s": _source(devices, launch), "device.dispatch_s": _source(devices, dispatch)}
    if device.transcendentals_per_s is not None:
        sources["device.transcendentals_per_s"] = _source(devices, exponentials)
    return device, sources


def _measure_links(devices: Devices, device: Device, told: Progress) -> tuple[Link, dict[str, str]]:
    sources = {"devices_per_node": "counted"}
    if len(devices) == 1:
        sources |= {"intra_node": "a single device has no links: any number would do",
                    "inter_node": "a single device has no links: any number would do"}
        return Link(1e9, 0.0), sources
    groups = [n for n in range(2, len(devices) + 1) if len(devices) % n == 0]
    measured = []
    for done, group in enumerate(groups):
        told(f"collectives of {group} devices", 0.45 + 0.45 * done / len(groups))
        measured += collective_times(devices, group, device.flops_per_s("float32"))
    told("hand-over between stages", 0.95)
    latency, rate, reading = hand_over(devices)
    sources |= {
        "intra_node.bandwidth_bytes_per_s": _source(devices, reading),
        "intra_node.latency_s": _source(devices, reading),
        "intra_node.measured": _source(devices, Reading(
            0.0, max(spread for _, spread in measured),
            f"8 collectives in a program, less one without, groups of {groups}; fixed time of 4 KiB with a millisecond "
            "of work before each, time per byte from 3 sizes without work")),
        "inter_node": "as within the node: there is only one"}
    return Link(rate, latency, tuple(fit for fit, _ in measured)), sources


def _memory_bytes(devices: Devices) -> int:
    stats = devices[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(devices)


def _source(devices: Devices, reading: Reading) -> str:
    return (f"measured {_today()}, jax {jax.__version__}, {len(devices)} x {devices[0].device_kind} all busy: "
            f"{reading.how}; spread {reading.spread:.0%}")


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _key(devices: Devices) -> str:
    if not devices:
        raise MeshError("no devices to measure", "give at least one")
    first = devices[0]
    text = f"{first.platform}-{first.device_kind}-{len(devices)}-{os.cpu_count()}cores-jax{jax.__version__}"
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).lower()
