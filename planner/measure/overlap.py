"""Which part of a communication hides behind compute that doesn't wait for it.

The communication is timed alone, matmuls that take about one and a half times as long alone, and both in one program in
which neither waits for the other. What both together save is the hidden part: `(alone + alone - together) / alone`.
Devices that share cores hide little, since moving bytes takes the cores too.

In: devices. Out: `core.hardware.Overlap`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax

from planner.core.hardware import Overlap
from planner.measure.communication import across
from planner.measure.pace import Allowance
from planner.measure.timing import INNER, Devices, Reading, on_all, time_in_turn

_BUFFERS = 4
"""Communications in a program, as of so many layers."""

_SIDE = 256
"""Of the matrices that are multiplied meanwhile."""

_MORE_COMPUTE = 1.5
"""Seconds of compute for each of communication: enough for all of it to hide."""

_REPEATS = 15


@dataclass(frozen=True)
class Beside:
    """What runs beside each other.

    Attributes:
      devices: all devices.
      elements: float32 elements of one communication on a device.
      flops_per_s: of one device in float32 matmuls.
    """

    devices: Devices
    elements: int
    flops_per_s: float

    def steps(self, seconds: float) -> int:
        """Matmuls that take so long."""
        return max(1, round(_MORE_COMPUTE * seconds * self.flops_per_s / (2 * _SIDE**3)))


def overlap(beside: Beside, allowance: Allowance) -> tuple[Overlap, Reading]:
    """The hidden parts; the reading's value is that of gradients."""
    kinds = (lambda x: jax.lax.psum(x, INNER), lambda x: jax.lax.all_gather(x, INNER, tiled=True))
    found: list[tuple[float, float]] = []
    for measured, part in allowance.each((*(lambda a, k=kind: _of_collective(beside, k, a) for kind in kinds),
                                          lambda a: _of_hand_over(beside, a))):
        found.append(measured(part))
    (gradients, spread), (gathers, _), (handed, _) = found
    how = (f"{_BUFFERS} all-reduces, all-gathers or device_puts of {4 * beside.elements >> 10} KiB a device beside "
           f"matmuls of {_SIDE} a side that take {_MORE_COMPUTE} times as long")
    return Overlap(gradients, gathers, handed), Reading(gradients, spread, how)


def hidden(communication_s: float, compute_s: float, together_s: float) -> float:
    """The part of a communication that running it beside compute saves, 0 to 1."""
    saved = communication_s + compute_s - together_s
    return min(1.0, max(0.0, saved / min(communication_s, compute_s)))


def _of_collective(beside: Beside, kind: Callable[[jax.Array], jax.Array],
                   allowance: Allowance) -> tuple[float, float]:
    """(hidden part, relative spread) of a collective over all devices."""
    devices, inputs = beside.devices, [((_BUFFERS, beside.elements), "float32"), ((_SIDE, _SIDE), "float32")]

    def communicate(x: jax.Array, _: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(kind(buffer) for buffer in x)

    alone = on_all(communicate, inputs, devices, group=len(devices))
    first = time_in_turn([alone], 5, allowance)[0].typical_s
    compute = _matmuls(beside.steps(first))
    calls = [alone, on_all(lambda _, m: compute(m), inputs, devices, group=len(devices)),
             on_all(lambda x, m: (communicate(x, m), compute(m)), inputs, devices, group=len(devices))]
    times = time_in_turn(calls, _REPEATS, allowance)
    return hidden(*(t.typical_s for t in times)), max(t.spread for t in times)


def _of_hand_over(beside: Beside, allowance: Allowance) -> tuple[float, float]:
    """(hidden part, relative spread) of moving arrays to devices that compute meanwhile."""
    array, there = across(beside.devices, _BUFFERS * beside.elements)
    second = beside.devices[len(beside.devices) // 2:2 * (len(beside.devices) // 2)]

    def move() -> jax.Array:
        return jax.device_put(array, there)

    first = time_in_turn([move], 5, allowance)[0].typical_s
    compute = on_all(_matmuls(beside.steps(first)), [((_SIDE, _SIDE), "float32")], second)
    times = time_in_turn([move, compute, lambda: (compute(), move())], _REPEATS, allowance)
    return hidden(*(t.typical_s for t in times)), max(t.spread for t in times)


def _matmuls(steps: int) -> Callable[[jax.Array], jax.Array]:
    """So many, one after the other."""
    return lambda m: jax.lax.fori_loop(0, steps, lambda _, made: made @ m, m)
