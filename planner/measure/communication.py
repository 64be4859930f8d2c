"""How long collectives take between the devices of this machine, and how long a hand-over from one device to another.

Every kind is timed over groups of 2, 4, ... devices, all groups at once, at a few sizes; a straight line through the
sizes (least relative squares) is what a profile keeps.

In: devices. Out: `CollectiveTime`, `Link`.
"""

import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from planner.core.hardware import CollectiveTime
from planner.costs.collectives import ALL_GATHER, ALL_REDUCE, ALL_TO_ALL, KINDS, PERMUTE, REDUCE_SCATTER
from planner.measure.arithmetic import Reading
from planner.measure.timing import INNER, Devices, Times, time_calls, time_on_all

_LENGTH = 8
"""Collectives in one program. What a program without any takes is subtracted, and the rest divided by this."""

LOCAL_ELEMENTS = (1 << 10, 1 << 16, 1 << 19)
"""Sizes of one device's float32 buffer: 4 KiB, 256 KiB, 2 MiB."""


def collective_times(devices: Devices, group: int) -> list[tuple[CollectiveTime, float]]:
    """Each kind over groups of `group` devices, with the largest relative spread among its sizes."""
    buffers = [elements + -elements % group for elements in LOCAL_ELEMENTS]  # scatters divide the buffer
    idle = {local: time_on_all(lambda x: x + 1, [((local,), "float32")], devices, group=group, repeats=15).typical_s
            for local in buffers}
    return [_fit(kind, group, devices, idle) for kind in KINDS]


def hand_over(devices: Devices) -> tuple[float, float, Reading]:
    """(latency in s, bytes/s, reading) of moving a sharded array from the first half of the devices to the second."""
    half = len(devices) // 2
    here, there = (NamedSharding(Mesh(np.array(side), (INNER,)), PartitionSpec(INNER))
                   for side in (devices[:half], devices[half:2 * half]))
    sizes: list[float] = []
    times: list[Times] = []
    for elements in LOCAL_ELEMENTS:
        array = jax.device_put(jnp.ones((half * elements,), jnp.float32), here)
        times.append(time_calls(lambda array=array: jax.device_put(array, there), repeats=15))
        sizes.append(4.0 * elements)
    fixed, per_byte = line(sizes, [t.typical_s for t in times])
    return fixed, 1 / per_byte, Reading(1 / per_byte, max(t.spread for t in times), "device_put between two halves")


def sums_then_slices(devices: Devices) -> bool:
    """Whether the compiler makes an all-reduce of what could be a reduce-scatter."""
    mesh = Mesh(np.array(devices), (INNER,))
    rows, columns = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in ((INNER, None), (None, INNER)))
    size = 16 * len(devices)
    matrix = jax.ShapeDtypeStruct((size, size), jnp.float32)
    product = jax.jit(jnp.matmul, in_shardings=(columns, rows), out_shardings=rows)
    return "reduce-scatter" not in (product.lower(matrix, matrix).compile().as_text() or "")


def adds_then_sums(devices: Devices) -> bool:
    """Whether the compiler adds partial sums on each device before it all-reduces them."""
    mesh = Mesh(np.array(devices), (INNER,))
    whole, rows, columns = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in ((), (INNER, None), (None, INNER)))
    size = 16 * len(devices)
    matrix = jax.ShapeDtypeStruct((size, size), jnp.float32)
    two = jax.jit(lambda a, b, c, d: a @ b + c @ d, in_shardings=(columns, rows) * 2, out_shardings=whole)
    text = two.lower(*(matrix,) * 4).compile().as_text() or ""
    combined = re.findall(r"= (.*) all-reduce(?:-start)?\(", text)
    return sum(arrays.count(f"f32[{size},{size}]") for arrays in combined) == 1


def line(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """(fixed, per unit) of the line with the least squared relative error, neither below zero."""
    x, t = np.array(sizes), np.array(seconds)
    fixed, slope = np.linalg.lstsq(np.stack([1 / t, x / t], axis=1), np.ones_like(t), rcond=None)[0]
    if fixed < 0:
        fixed, slope = 0.0, float(np.sum(x / t) / np.sum((x / t) ** 2))
    if slope <= 0:
        # Sizes made no difference that could be measured: at least the largest took no longer than all of its time.
        fixed, slope = float(np.min(t)), float(np.finfo(np.float32).tiny)
    return float(fixed), float(slope)


def _fit(kind: str, group: int, devices: Devices, idle_s: dict[int, float]) -> tuple[CollectiveTime, float]:
    sizes: list[float] = []
    seconds: list[float] = []
    spreads: list[float] = []
    for local, idle in idle_s.items():
        times = time_on_all(_chain(kind, group), [((local,), "float32")], devices, group=group)
        sizes.append(4.0 * local * (group if kind in (ALL_GATHER, ALL_TO_ALL) else 1))
        # Never below a tenth of what was seen, should the idle run have been disturbed more than this one.
        seconds.append(max(times.typical_s - idle, times.typical_s / 10) / _LENGTH)
        spreads.append(times.spread)
    fixed, per_byte = line(sizes, seconds)
    return CollectiveTime(kind, group, fixed, per_byte), max(spreads)


def _chain(kind: str, group: int) -> Callable[[jax.Array], jax.Array]:
    """A program of `_LENGTH` collectives, each fed by the one before."""
    once = {
        ALL_REDUCE: lambda x: jax.lax.psum(x, INNER),
        ALL_GATHER: lambda x: jax.lax.all_gather(x, INNER, tiled=True)[:x.shape[0]],
        REDUCE_SCATTER: lambda x: jnp.tile(jax.lax.psum_scatter(x, INNER, tiled=True), group),
        ALL_TO_ALL: lambda x: jax.lax.all_to_all(x, INNER, 0, 0, tiled=True),
        PERMUTE: lambda x: jax.lax.ppermute(x, INNER, [(i, (i + 1) % group) for i in range(group)]),
    }[kind]

    def chain(x: jax.Array) -> jax.Array:
        for _ in range(_LENGTH):
            x = once(x)
        return x

    return chain
