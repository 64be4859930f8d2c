"""How long collectives take between the devices of this machine, and how long a hand-over from one device to another.

Every kind is timed over groups of 2, 4, ... devices, all groups at once. The time per byte is the slope of a straight
line through a few sizes (least relative squares), back to back. The fixed time is that of a small buffer where each
device has work of its own before each collective, as in a model: then devices don't arrive together, those that share
cores least of all (eight on two cores: three times what it is back to back).

In: devices. Out: `CollectiveTime`, `Link`.
"""

import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from planner.core.hardware import CollectiveTime
from planner.costs.collectives import ALL_GATHER, ALL_REDUCE, ALL_TO_ALL, PERMUTE, REDUCE_SCATTER
from planner.measure.arithmetic import Reading
from planner.measure.timing import INNER, Devices, Times, on_all, time_in_turn

TIMED = (ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, ALL_TO_ALL, PERMUTE)
"""Kinds that are timed. XLA makes no broadcasts of its own, and on CPU has none."""

_LENGTH = 8
"""Collectives in one program. What a program without any takes is subtracted, and the rest divided by this."""

_WORK_S = 1e-3
"""Work of a device between two collectives, in seconds while all are busy. [chosen: what an operator of a small
model takes]"""

_START_REPEATS = 41
"""Runs of each program that tells the fixed time: the difference of two long times."""

_WORK_SIZE = 128
"""Side of the matrices of that work."""

LOCAL_ELEMENTS = (1 << 10, 1 << 16, 1 << 19)
"""Sizes of one device's float32 buffer: 4 KiB, 256 KiB, 2 MiB."""


def collective_times(devices: Devices, group: int, flops_per_s: float) -> list[tuple[CollectiveTime, float]]:
    """Each kind over groups of `group` devices, with the largest relative spread among its sizes.

    Args:
      devices: all devices.
      group: how many of them communicate with each other.
      flops_per_s: of one device in float32 matmuls; sets how many make up the work between collectives.
    """
    steps = max(1, round(_WORK_S * flops_per_s / (2 * _WORK_SIZE**3)))
    starts = _in_turn(devices, group, LOCAL_ELEMENTS[0], steps, repeats=_START_REPEATS)
    by_size = {local: _in_turn(devices, group, local, 0, repeats=9) for local in LOCAL_ELEMENTS}
    found: list[tuple[CollectiveTime, float]] = []
    for kind in TIMED:
        sizes = [4.0 * local * (group if kind in (ALL_GATHER, ALL_TO_ALL) else 1) for local in LOCAL_ELEMENTS]
        _, per_byte = line(sizes, [by_size[local][kind][0] for local in LOCAL_ELEMENTS])
        start, spread = starts[kind]
        found.append((CollectiveTime(kind, group, start, per_byte), spread))
    return found


def _in_turn(devices: Devices, group: int, local: int, steps: int, *, repeats: int) -> dict[str, tuple[float, float]]:
    """Seconds of one collective of each kind beyond the work before it, and the relative spread of the program's."""
    local += -local % group  # scatters divide the buffer
    bodies = [_chain(lambda x: x, steps), *(_chain(_collective(kind, group), steps) for kind in TIMED)]
    without, *times = time_in_turn([on_all(body, _inputs(local), devices, group=group) for body in bodies], repeats)
    # Never below a hundredth of what was seen, should the run without have been disturbed more than this one.
    return {kind: (max(t.typical_s - without.typical_s, t.typical_s / 100) / _LENGTH, t.spread)
            for kind, t in zip(TIMED, times, strict=True)}


def hand_over(devices: Devices) -> tuple[float, float, Reading]:
    """(latency in s, bytes/s, reading) of moving a sharded array from the first half of the devices to the second."""
    half = len(devices) // 2
    here, there = (NamedSharding(Mesh(np.array(side), (INNER,)), PartitionSpec(INNER))
                   for side in (devices[:half], devices[half:2 * half]))
    sizes: list[float] = []
    times: list[Times] = []
    for elements in LOCAL_ELEMENTS:
        array = jax.device_put(jnp.ones((half * elements,), jnp.float32), here)
        times += time_in_turn([lambda array=array: jax.device_put(array, there)], repeats=15)
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


def merges(devices: Devices) -> bool:
    """Whether the compiler makes one all-reduce of several that don't wait for each other."""
    mesh = Mesh(np.array(devices), (INNER,))
    whole, rows, columns = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in ((), (INNER, None), (None, INNER)))
    size = 16 * len(devices)
    matrix = jax.ShapeDtypeStruct((size, size), jnp.float32)
    two = jax.jit(lambda a, b, c, d: (a @ b, c @ d), in_shardings=(columns, rows) * 2, out_shardings=whole)
    text = two.lower(*(matrix,) * 4).compile().as_text() or ""
    return len(re.findall(r" all-reduce(?:-start)?\(", text)) == 1


def _inputs(local: int) -> list[tuple[tuple[int, ...], str]]:
    """What a chain is given: the buffer of its collectives, the matrix of its work."""
    return [((local,), "float32"), ((_WORK_SIZE, _WORK_SIZE), "float32")]


def _collective(kind: str, group: int) -> Callable[[jax.Array], jax.Array]:
    return {
        ALL_REDUCE: lambda x: jax.lax.psum(x, INNER),
        ALL_GATHER: lambda x: jax.lax.all_gather(x, INNER, tiled=True)[:x.shape[0]],
        REDUCE_SCATTER: lambda x: jnp.tile(jax.lax.psum_scatter(x, INNER, tiled=True), group),
        ALL_TO_ALL: lambda x: jax.lax.all_to_all(x, INNER, 0, 0, tiled=True),
        PERMUTE: lambda x: jax.lax.ppermute(x, INNER, [(i, (i + 1) % group) for i in range(group)]),
    }[kind]


def _chain(collective: Callable[[jax.Array], jax.Array], steps: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """A program of `_LENGTH` collectives with work between them, each fed by the one before."""
    def chain(x: jax.Array, matrix: jax.Array) -> jax.Array:
        for _ in range(_LENGTH):
            worked = jax.lax.fori_loop(0, steps, lambda _, m: m @ matrix, matrix + 1e-20 * x[0])
            x = collective(x + 1e-20 * worked[0, 0])
        return x

    return chain
