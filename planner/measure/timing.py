"""Timing a function on all devices at once.

Devices may share cores, memory and wires, so nothing is timed alone: every device runs the same program at the same
time, and a time is the wall time until all have finished.

In: a function of one device's arrays. Out: seconds.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Devices = Sequence[Any]
"""`jax.Device`s, for which jaxlib has no type stubs."""

OUTER, INNER = "outer", "inner"
"""Mesh axes: groups, and the devices of a group."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of repeated runs, sorted."""

    seconds: tuple[float, ...]

    @property
    def typical_s(self) -> float:
        """The lower quartile: other programs on the machine only ever add time."""
        return self.seconds[len(self.seconds) // 4]

    @property
    def spread(self) -> float:
        """(upper quartile - lower quartile) / lower quartile."""
        return self.seconds[(3 * len(self.seconds)) // 4] / self.typical_s - 1


def time_on_all(body: Callable[..., jax.Array], inputs: Sequence[tuple[tuple[int, ...], str]],
                devices: Devices, *, group: int = 1, repeats: int = 9) -> Times:
    """Time a compiled program that runs `body` on every device with arrays of its own.

    Args:
      body, inputs, devices, group: as of `on_all`.
      repeats: timed runs, after two that aren't.
    """
    return time_in_turn([on_all(body, inputs, devices, group=group)], repeats)[0]


def on_all(body: Callable[..., jax.Array], inputs: Sequence[tuple[tuple[int, ...], str]], devices: Devices, *,
           group: int = 1) -> Callable[[], jax.Array]:
    """The call of a compiled program that runs `body` on every device with arrays of its own.

    Args:
      body: from one device's arrays to an array; may use collectives over axis `INNER`.
      inputs: shape and dtype of each array of one device.
      devices: all devices.
      group: devices along axis `INNER`; must divide their number.
    """
    mesh = Mesh(np.array(devices).reshape(-1, group), (OUTER, INNER))
    spec = PartitionSpec((OUTER, INNER))
    arrays = [jax.device_put(jnp.full((len(devices) * shape[0], *shape[1:]), 1 / 64, dtype), NamedSharding(mesh, spec))
              for shape, dtype in inputs]
    program = jax.jit(jax.shard_map(body, mesh=mesh, in_specs=(spec,) * len(arrays), out_specs=spec, check_vma=False))
    return lambda: program(*arrays)


def time_in_turn(calls: Sequence[Callable[[], jax.Array]], repeats: int) -> list[Times]:
    """Time calls until their results are there, one after the other and again, so that a change of the machine's load
    meets all of them; two rounds first that aren't counted."""
    found: list[list[float]] = [[] for _ in calls]
    for n in range(2 + repeats):
        for call, seconds in zip(calls, found, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(call())
            if n >= 2:
                seconds.append(time.perf_counter() - start)
    return [Times(tuple(sorted(seconds))) for seconds in found]
