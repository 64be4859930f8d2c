"""How long collectives take between the devices of this machine, and how long a hand-over from one device to another.

Every kind is timed over groups of 2, 4, ... devices, all groups at once. The time per byte is the slope of a straight
line through a few sizes (least relative squares), back to back. The fixed time is that of a small buffer where each
device has work of its own before each collective, as in a model: then devices don't arrive together, those that share
cores least of all (eight on two cores: three times what it is back to back).

In: devices. Out: `CollectiveTime`, `Link`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from planner.core.hardware import CollectiveTime
from planner.costs.collectives import ALL_GATHER, ALL_REDUCE, ALL_TO_ALL, PERMUTE, REDUCE_SCATTER
from planner.measure.pace import Allowance
from planner.measure.timing import INNER, Arrays, Devices, Reading, Times, on_all, time_in_turn

TIMED = (ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, ALL_TO_ALL, PERMUTE)
"""Kinds that are timed. XLA makes no broadcasts of its own, and on CPU has none."""

_LENGTH = 8
"""Collectives in one program. What a program without any takes is subtracted, and the rest divided by this."""

_WORK_S = 1e-3
"""Work of a device between two collectives, in seconds while all are busy. [chosen: what an operator of a small
model takes]"""

_START_REPEATS = 41
"""Runs of each program that tells the fixed time: the difference of two long times."""

_START_SHARE = 0.6
"""Part of a group's time that the fixed times get: they are the noisiest."""

_WORK_SIZE = 128
"""Side of the matrices of that work."""


@dataclass(frozen=True)
class Senders:
    """Who communicates, and what.

    Attributes:
      devices: all devices.
      messages: float32 elements of a device's buffer, ascending.
      flops_per_s: of one device in float32 matmuls; sets how many make up the work between collectives.
    """

    devices: Devices
    messages: tuple[int, ...]
    flops_per_s: float


def collective_times(senders: Senders, group: int, allowance: Allowance) -> list[tuple[CollectiveTime, float]]:
    """Each kind over groups of `group` devices, with the relative spread of its fixed time's runs.

    Args:
      senders: devices and messages.
      group: how many devices communicate with each other.
      allowance: time for all kinds and messages.
    """
    messages = senders.messages
    steps = max(1, round(_WORK_S * senders.flops_per_s / (2 * _WORK_SIZE**3)))
    first = Allowance(allowance.clock() + _START_SHARE * allowance.left_s(), allowance.clock)
    starts = _in_turn(senders.devices, group, (messages[0], steps, _START_REPEATS), first)
    allowance.tell(_START_SHARE)
    by_size = [_in_turn(senders.devices, group, (local, 0, 9), part)
               for local, part in Allowance(allowance.until, allowance.clock).each(messages)]
    found: list[tuple[CollectiveTime, float]] = []
    for kind in TIMED:
        sizes = [4.0 * local * (group if kind in (ALL_GATHER, ALL_TO_ALL) else 1) for local in messages]
        _, per_byte = line(sizes, [times[kind][0] for times in by_size])
        start, spread = starts[kind]
        found.append((CollectiveTime(kind, group, start, per_byte), spread))
    return found


def _in_turn(devices: Devices, group: int, how: tuple[int, int, int],
             allowance: Allowance) -> dict[str, tuple[float, float]]:
    """Seconds of one collective of each kind beyond the work before it, and the relative spread of the program's.

    `how`: elements of a buffer, steps of work, repeats.
    """
    local, steps, repeats = how
    local += -local % group  # scatters divide the buffer
    bodies = [_chain(lambda x, _: x, group, steps), *(_chain(_COLLECTIVES[kind], group, steps) for kind in TIMED)]
    calls = [on_all(body, _inputs(local), devices, group=group) for body in bodies]
    without, *times = time_in_turn(calls, repeats, allowance)
    # Never below a hundredth of what was seen, should the run without have been disturbed more than this one.
    return {kind: (max(t.typical_s - without.typical_s, t.typical_s / 100) / _LENGTH, t.spread)
            for kind, t in zip(TIMED, times, strict=True)}


def hand_over(devices: Devices, messages: Sequence[int], allowance: Allowance) -> tuple[float, float, Reading]:
    """(latency in s, bytes/s, reading) of moving a sharded array from the first half of the devices to the second."""
    half = len(devices) // 2
    sizes: list[float] = []
    times: list[Times] = []
    for elements, part in allowance.each(messages):
        array, there = across(devices, elements)
        times += time_in_turn([lambda array=array, there=there: jax.device_put(array, there)], 15, part)
        sizes.append(4.0 * elements)
    fixed, per_byte = line(sizes, [t.typical_s for t in times])
    return fixed, 1 / per_byte, Reading(1 / per_byte, max(t.spread for t in times),
                                        f"device_put from {half} devices to {half} others")


def across(devices: Devices, elements: int) -> tuple[jax.Array, NamedSharding]:
    """(an array of so many float32 elements on each of the first half of the devices, the same on the second half)."""
    half = len(devices) // 2
    here, there = (NamedSharding(Mesh(np.array(side), (INNER,)), PartitionSpec(INNER))
                   for side in (devices[:half], devices[half:2 * half]))
    return jax.device_put(jnp.ones((half * elements,), jnp.float32), here), there


def line(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """(fixed, per unit) of the line with the least squared relative error, neither below zero."""
    x, t = np.array(sizes), np.array(seconds)
    fixed, slope = np.linalg.lstsq(np.stack([1 / t, x / t], axis=1), np.ones_like(t), rcond=None)[0]
    if fixed < 0:
        fixed, slope = 0.0, float(np.sum(x / t) / np.sum((x / t) ** 2))
    if slope <= 0:
        # Sizes made no difference that noise would have shown: a tenth of the quickest time, over the largest.
        fixed, slope = float(np.min(t)), float(np.min(t) / np.max(x)) / 10
    return float(fixed), float(slope)


def _inputs(local: int) -> Arrays:
    """What a chain is given: the buffer of its collectives, the matrix of its work."""
    return [((local,), "float32"), ((_WORK_SIZE, _WORK_SIZE), "float32")]


Collective = Callable[[jax.Array, int], jax.Array]
"""Of a buffer, over a group of so many devices; the result has the buffer's shape."""

_COLLECTIVES: MappingProxyType[str, Collective] = MappingProxyType({
    ALL_REDUCE: lambda x, _: jax.lax.psum(x, INNER),
    ALL_GATHER: lambda x, _: jax.lax.all_gather(x, INNER, tiled=True)[:x.shape[0]],
    REDUCE_SCATTER: lambda x, group: jnp.tile(jax.lax.psum_scatter(x, INNER, tiled=True), group),
    ALL_TO_ALL: lambda x, _: jax.lax.all_to_all(x, INNER, 0, 0, tiled=True),
    PERMUTE: lambda x, group: jax.lax.ppermute(x, INNER, [(i, (i + 1) % group) for i in range(group)]),
})


def _chain(collective: Collective, group: int, steps: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """A program of `_LENGTH` collectives with work between them, each fed by the one before."""
    def chain(x: jax.Array, matrix: jax.Array) -> jax.Array:
        for _ in range(_LENGTH):
            worked = jax.lax.fori_loop(0, steps, lambda _, m: m @ matrix, matrix + 1e-20 * x[0])
            x = collective(x + 1e-20 * worked[0, 0], group)
        return x

    return chain
