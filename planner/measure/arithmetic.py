"""What one device can do while all are busy: matmuls, memory traffic, transcendentals, small operators, calls.

In: devices. Out: numbers of `core.hardware.Device`, each with how it was found.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from planner.measure.timing import Devices, time_on_all


@dataclass(frozen=True, slots=True)
class Reading:
    """A measured number, its relative spread between runs, and how it was measured."""

    value: float
    spread: float
    how: str


def matmul_rates(devices: Devices, dtype: str, sizes: Sequence[int]) -> list[Reading]:
    """FLOP/s of one device in chains of square matmuls, per size."""
    found: list[Reading] = []
    for n in sizes:
        length = max(1, min(32, (512 // n) ** 2))

        def chain(a: jax.Array, b: jax.Array, length: int = length) -> jax.Array:
            for _ in range(length):
                a = a @ b
            return a

        times = time_on_all(chain, [((n, n), dtype)] * 2, devices)
        found.append(Reading(2 * n**3 * length / times.typical_s, times.spread, f"{dtype} matmuls of {n} x {n}"))
    return found


def memory_rate(devices: Devices, elements: int) -> Reading:
    """Bytes/s of one device reading and writing float32 arrays that its caches don't hold."""
    length = 4

    def chain(a: jax.Array) -> jax.Array:
        # The sum keeps the passes apart: each reads the array for it, then reads and writes it for the product.
        for _ in range(length):
            a = a * (1 + jnp.sum(a) * 1e-20)
        return a

    times = time_on_all(chain, [((elements,), "float32")], devices)
    return Reading(3 * 4 * elements * length / times.typical_s, times.spread,
                   f"sum and scale of {4 * elements >> 20} MiB")


def transcendental_rate(devices: Devices, elements: int) -> Reading:
    """Elements/s of one device through exp."""
    length = 8

    def chain(a: jax.Array) -> jax.Array:
        for _ in range(length):
            a = jnp.exp(-a)
        return a

    times = time_on_all(chain, [((elements,), "float32")], devices)
    return Reading(elements * length / times.typical_s, times.spread, f"{length} exponentials of {elements} elements")


def launch_and_dispatch(devices: Devices) -> tuple[Reading, Reading]:
    """Seconds of a small operator inside a program, and of calling a program that does next to nothing."""
    length = 96

    def chain(a: jax.Array, steps: int) -> jax.Array:
        # A sum after each step keeps the compiler from merging the steps into one operator.
        for _ in range(steps):
            a = a + jnp.sum(a)
        return a

    inputs = [((64,), "float32")]
    short = time_on_all(lambda a: chain(a, 1), inputs, devices, repeats=25)
    long = time_on_all(lambda a: chain(a, 1 + length), inputs, devices, repeats=25)
    operators = 2 * length
    return (Reading(max(long.typical_s - short.typical_s, 0.0) / operators, long.spread,
                    f"{operators} dependent small operators in one program"),
            Reading(short.typical_s, short.spread, "calls of a program of two small operators"))
