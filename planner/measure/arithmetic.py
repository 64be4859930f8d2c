"""What one device does besides matmuls while all are busy: transcendentals, transposing copies, operands that are in no
cache; and how much faster it is alone.

In: devices. Out: numbers of `core.hardware.Device`, each with how it was found.
"""

import jax
import jax.numpy as jnp

from planner.measure.fixed import gradients, model_shapes
from planner.measure.pace import Allowance
from planner.measure.timing import Devices, Reading, on_all, repeated, time_in_turn, time_on_all


def transcendental_rate(devices: Devices, elements: int, allowance: Allowance) -> Reading:
    """Elements/s of one device through exp."""
    length = 8
    times = time_on_all(repeated(lambda a: jnp.exp(-a), length), [((elements,), "float32")], devices,
                        allowance=allowance)
    return Reading(elements * length / times.typical_s, times.spread, f"{length} exponentials of {elements} elements")


_TRANSPOSED = (2048, 256)
"""Shape of the float32 matrix that is transposed: activations of a small model. [chosen]"""


def relayout_slowdown(devices: Devices, allowance: Allowance) -> Reading:
    """How many times as long a transposing copy takes as scaling a matrix, which moves as many bytes; at least 1."""
    length = 8
    copies = [on_all(repeated(step, length), [(_TRANSPOSED, "float32")], devices)
              for step in (lambda a: a.T, lambda a: a * 1.0001)]
    turned, scaled = time_in_turn(copies, 11, allowance)
    return Reading(max(1.0, turned.typical_s / scaled.typical_s), max(turned.spread, scaled.spread),
                   f"{length} transposing copies of {' x '.join(map(str, _TRANSPOSED))} floats, beside scaling them")


_ALONE_ROWS = 256
"""Rows of the small model that tells how fast a device is alone. [chosen]"""

_COLD_SHAPE, _COLD_MATRICES = (64, 256), 32
"""Rows and columns of the chain of products whose matrices are in no cache, and how many: 8 MiB a device, of which all
together are to exceed what the devices share."""


def exposed_traffic(devices: Devices, memory_bytes_per_s: float, allowance: Allowance) -> Reading:
    """Which part of the time that a matrix takes from device memory comes on top of a product's arithmetic, 0 to 1: a
    chain of products with different matrices, beside one with the same."""
    rows, side = _COLD_SHAPE

    def chain(a: jax.Array, *matrices: jax.Array) -> jax.Array:
        for n in range(_COLD_MATRICES):
            a = a @ matrices[n % len(matrices)]
        return a

    calls = [on_all(chain, [((rows, side), "float32"), *[((side, side), "float32")] * count], devices)
             for count in (_COLD_MATRICES, 1)]
    cold, warm = time_in_turn(calls, 15, allowance)
    moved_s = (_COLD_MATRICES - 1) * side * side * 4 / memory_bytes_per_s
    return Reading(min(max((cold.typical_s - warm.typical_s) / moved_s, 0.0), 1.0), max(cold.spread, warm.spread),
                   f"{_COLD_MATRICES} products of {rows} rows with matrices of {side} a side, different or the same")


def speed_alone(devices: Devices, allowance: Allowance) -> Reading:
    """How many times faster a device computes a small model's gradients while all others idle: from 1 to their
    number."""
    inputs = [(shape, "float32") for shape in model_shapes(_ALONE_ROWS)]
    together, alone = time_in_turn([on_all(gradients, inputs, of) for of in (devices, devices[:1])], 15, allowance)
    found = min(max(together.typical_s / alone.typical_s, 1.0), float(len(devices)))
    return Reading(found, max(together.spread, alone.spread), "gradients of a small model, on all devices and on one")
