"""Devices that share cores, as virtual devices of a CPU do: those that work are faster the more of the others wait.

In: how many wait, `Device.alone`. Out: a speed.
"""

from math import log


def sharing_speed(idle: float, devices: int, alone: float) -> float:
    """How many times faster devices on shared cores compute while only one in `idle` of them does: `alone` times if it
    is a single one, and between as powers of `idle` go (XLA on CPU was measured so: of 8 devices on 2 cores, 4 are 1.7
    times as fast, 2 are 2.6 times and 1 is 4 times)."""
    return min(alone, max(idle, 1.0) ** (log(alone) / log(devices))) if devices > 1 else 1.0
