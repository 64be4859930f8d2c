"""What one device does besides matmuls while all are busy: small operators, calls, transcendentals, transposing copies;
and how much faster it is alone.

In: devices. Out: numbers of `core.hardware.Device`, each with how it was found.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from planner.measure.pace import Allowance
from planner.measure.timing import Devices, Reading, on_all, repeated, time_in_turn, time_on_all


@dataclass(frozen=True, slots=True)
class FixedCosts:
    """What a program costs before it computes.

    Attributes:
      launch: of a small operator inside a program.
      dispatch: of calling a program on all devices.
      loop_s: of a step in `timing.repeated` that does next to nothing: its operator and the loop's own.
    """

    launch: Reading
    dispatch: Reading
    loop_s: float


_OPERATORS = 96
"""Pairs of small operators in the program that tells what one costs."""

_STEPS = 1000
"""Steps of the loop that tells what one costs."""


def fixed_costs(devices: Devices, allowance: Allowance) -> FixedCosts:
    """Times small operators, one after the other."""

    def chain(a: jax.Array, steps: int) -> jax.Array:
        # A sum after each step keeps the compiler from merging the steps into one operator.
        for _ in range(steps):
            a = a + jnp.sum(a)
        return a

    inputs = [((64,), "float32")]
    bodies = [lambda a: chain(a, 1), lambda a: chain(a, 1 + _OPERATORS), repeated(lambda a: a + 1, 1),
              repeated(lambda a: a + 1, 1 + _STEPS)]
    short, long, once, often = time_in_turn([on_all(body, inputs, devices) for body in bodies], 25, allowance)
    return FixedCosts(
        Reading(max(long.typical_s - short.typical_s, 0.0) / (2 * _OPERATORS), long.spread,
                f"{2 * _OPERATORS} dependent small operators in one program"),
        Reading(short.typical_s, short.spread, "calls of a program of two small operators"),
        max(often.typical_s - once.typical_s, 0.0) / _STEPS)


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


_ALONE_SIDE, _ALONE_STEPS = 256, 16


def speed_alone(devices: Devices, allowance: Allowance) -> Reading:
    """How many times faster a device multiplies matrices while all others idle; at least 1, at most their number."""
    body, inputs = repeated(jnp.matmul, _ALONE_STEPS), [((_ALONE_SIDE, _ALONE_SIDE), "float32")] * 2
    together, alone = time_in_turn([on_all(body, inputs, devices), on_all(body, inputs, devices[:1])], 15, allowance)
    found = min(max(together.typical_s / alone.typical_s, 1.0), float(len(devices)))
    return Reading(found, max(together.spread, alone.spread),
                   f"{_ALONE_STEPS} matmuls of {_ALONE_SIDE} a side, on all devices and on one")
