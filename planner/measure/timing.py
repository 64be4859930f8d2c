"""Timing a function on all devices at once.

Devices may share cores, memory and wires, so nothing is timed alone: every device runs the same program at the same
time, and a time is the wall time until all have finished.

In: a function of one device's arrays. Out: seconds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from planner.measure.pace import Allowance

Devices = Sequence[Any]
"""`jax.Device`s, for which jaxlib has no type stubs."""

Arrays = Sequence[tuple[tuple[int, ...], str]]
"""Shape and dtype of each array of one device."""

OUTER, INNER = "outer", "inner"
"""Mesh axes: groups, and the devices of a group."""

NOISY = 0.3
"""Relative spread from which times are taken again while there is time. [chosen]"""

_LEAST, _MOST = 3, 3
"""Rounds that are timed however little time there is; and how many times the usual rounds noisy ones get. [chosen]"""


@dataclass(frozen=True, slots=True)
class Reading:
    """A measured number, its relative spread between runs, and how it was measured."""

    value: float
    spread: float
    how: str


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


def time_on_all(body: Callable[..., Any], inputs: Arrays, devices: Devices, *, group: int = 1, repeats: int = 9,
                allowance: Allowance | None = None) -> Times:
    """Time a compiled program that runs `body` on every device with arrays of its own.

    Args:
      body, inputs, devices, group: as of `on_all`.
      repeats, allowance: as of `time_in_turn`.
    """
    return time_in_turn([on_all(body, inputs, devices, group=group)], repeats, allowance)[0]


def on_all(body: Callable[..., Any], inputs: Arrays, devices: Devices, *,
           group: int = 1) -> Callable[[], Any]:
    """The call of a compiled program that runs `body` on every device with arrays of its own.

    Args:
      body: from one device's arrays to arrays; may use collectives over axis `INNER`.
      inputs: shape and dtype of each array of one device.
      devices: all devices.
      group: devices along axis `INNER`; must divide their number.
    """
    mesh = Mesh(np.array(devices).reshape(-1, group), (OUTER, INNER))
    spec = PartitionSpec((OUTER, INNER))
    arrays = [_filled(shape, dtype, NamedSharding(mesh, spec)) for shape, dtype in inputs]
    program = jax.jit(jax.shard_map(body, mesh=mesh, in_specs=(spec,) * len(arrays), out_specs=spec, check_vma=False))
    return lambda: program(*arrays)


def repeated(step: Callable[..., jax.Array], length: int, copies: int = 1) -> Callable[..., tuple[jax.Array, ...]]:
    """A body that runs `step` so many times, one after the other: a loop that adds next to nothing.

    The results of a turn pass through a barrier with the arrays of the next, so that no compiler takes a step out of
    the loop; and every step of a turn has arrays of its own, so that none merges two.

    Args:
      step: from arrays to an array.
      length: how many times, a multiple of `copies`.
      copies: steps of one turn of the loop; the body takes so many sets of arrays and gives back as many results.
    """
    def body(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        each = len(arrays) // copies

        def turn(held: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            return tuple(step(*held[n * each:(n + 1) * each]) for n in range(copies))

        def again(_: jax.Array, carried: tuple[tuple[jax.Array, ...], Any]) -> tuple[Any, Any]:
            held, _results = jax.lax.optimization_barrier(carried)
            return held, turn(held)

        start = tuple(jnp.zeros(r.shape, r.dtype) for r in jax.eval_shape(turn, arrays))
        return jax.lax.fori_loop(0, length // copies, again, (arrays, start))[1]

    return body


def time_in_turn(calls: Sequence[Callable[[], Any]], repeats: int,
                 allowance: Allowance | None = None) -> list[Times]:
    """Time calls until their results are there, one after the other and again, so that a change of the machine's load
    meets all of them; rounds come first that aren't counted.

    Args:
      calls: to time.
      repeats: rounds: at least three however short the time, and up to thrice as many while times are noisy.
      allowance: the time there is; default: any.
    """
    allowance = allowance or Allowance()
    for warm in range(2):  # the first compiles
        if warm == 0 or allowance.left_s() > 0:
            for call in calls:
                jax.block_until_ready(call())
    found: list[list[float]] = [[] for _ in calls]
    while _goes_on(found, repeats, allowance):
        for call, seconds in zip(calls, found, strict=True):
            start = allowance.clock()
            jax.block_until_ready(call())
            seconds.append(allowance.clock() - start)
    return [Times(tuple(sorted(seconds))) for seconds in found]


def _goes_on(found: Sequence[Sequence[float]], repeats: int, allowance: Allowance) -> bool:
    """Whether another round is due."""
    rounds = len(found[0]) if found else repeats * _MOST
    if rounds < min(_LEAST, repeats) or rounds >= repeats * _MOST:
        return rounds < min(_LEAST, repeats)
    if allowance.left_s() <= 0:
        return False
    return rounds < repeats or max(Times(tuple(sorted(seconds))).spread for seconds in found) > NOISY


def _filled(shape: tuple[int, ...], dtype: str, sharding: NamedSharding) -> jax.Array:
    """An array whose every shard has that shape and the same random numbers below 1/8: equal ones take less power, and
    so less time, on some devices."""
    shard = (np.random.default_rng(0).random(shape, np.float32) / 8).astype(jnp.dtype(dtype))
    count = sharding.mesh.size
    return jax.make_array_from_callback((count * shape[0], *shape[1:]), sharding, lambda _: shard)
