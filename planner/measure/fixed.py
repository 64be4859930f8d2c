"""What a program costs beside arithmetic and traffic: the call, a loop's step, and every kernel in it.

A kernel's own cost is what a small model's gradients take beyond their arithmetic and traffic. Kernels in a row cost
less: a runtime that starts kernels as their operands get ready, on threads that have to be woken, takes longer over a
graph of them.

In: devices, what is known of one. Out: `FixedCosts`, and the cost of a kernel.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from planner.core.hardware import Device
from planner.costs.compute import memory_s
from planner.costs.matmuls import MatmulSizes, matmuls_s
from planner.measure.pace import Allowance
from planner.measure.timing import Devices, Reading, on_all, repeated, time_in_turn


@dataclass(frozen=True, slots=True)
class FixedCosts:
    """What a program costs before it computes.

    Attributes:
      dispatch: of calling a program of one array that does next to nothing, on all devices, among others.
      result: of another array that a program takes and gives back.
      call_s: of such a call until its result is there.
      loop_s: of a step in `timing.repeated` that does next to nothing: its operator and the loop's own; 0 where steps
        queue.
    """

    dispatch: Reading
    result: Reading
    call_s: float
    loop_s: float


_ARRAYS = 40
"""Arguments and results of the program that tells what a call costs: a few layers' gradients. [chosen]"""

_STEPS = 1000
"""Steps of the loop that tells what one costs."""

_QUEUED = 64
"""Calls that are made before their results are waited for, where devices queue them. [chosen]"""

_ROWS, _WIDTH, _BLOCKS = 64, 256, 4
"""Of the small model. [chosen: its kernels are large enough to be run as those of real models are, and small enough for
their own cost to show]"""

_KERNEL = re.compile(r" (?:fusion|dot|convolution|reduce|copy|transpose|call|custom-call)\(")
"""Instructions of a compiled program that are kernels."""


def fixed_costs(devices: Devices, allowance: Allowance, *, queues: bool = False) -> FixedCosts:
    """Times calls of next to nothing, and a loop of small operators.

    Args:
      devices: all devices.
      allowance: time for it.
      queues: whether the devices queue calls: then a call is timed among many.
    """
    vector = [((64,), "float32")]
    small = on_all(lambda a: a + 1, vector, devices)
    large = on_all(lambda *arrays: tuple(a + 1 for a in arrays), vector * _ARRAYS, devices)
    loops = [on_all(repeated(lambda a: a + 1, length), vector, devices) for length in (1, 1 + _STEPS)]
    often = _QUEUED if queues else 1
    call, one, many, short, long = time_in_turn([small, _queued(small, often), _queued(large, often), *loops], 25,
                                                allowance)
    each = max(many.typical_s - one.typical_s, 0.0) / often / (_ARRAYS - 1)
    return FixedCosts(Reading(one.typical_s / often, one.spread, "calls of a program of one small array"),
                      Reading(each, many.spread, f"calls of a program of {_ARRAYS} small arrays, beside one of one"),
                      call.typical_s, 0.0 if queues else max(long.typical_s - short.typical_s, 0.0) / _STEPS)


def _queued(call: Callable[[], Any], often: int) -> Callable[[], Any]:
    """So many calls, and the result of the last."""
    return lambda: [call() for _ in range(often)][-1]


def kernel_cost(devices: Devices, device: Device, call_s: float, allowance: Allowance) -> Reading:
    """Seconds of a kernel beside its arithmetic and traffic.

    Args:
      devices: all devices.
      device: one of them: rates of matmuls and memory.
      call_s: of a call of next to nothing.
      allowance: time for it.
    """
    shapes = model_shapes(_ROWS)
    times = time_in_turn([on_all(gradients, [(shape, "float32") for shape in shapes], devices)], 25, allowance)[0]
    there = jax.sharding.SingleDeviceSharding(devices[0])
    structs = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=there) for shape in shapes]
    compiled = jax.jit(gradients).lower(*structs).compile()
    count = kernels(compiled.as_text() or "")
    products = _products()
    moved = 4 * float(np.sum(products.m * products.k + products.k * products.n + products.m * products.n))
    others = max(0.0, float((compiled.cost_analysis() or {})["bytes accessed"]) - moved)
    known_s = float(np.sum(matmuls_s(products, "float32", device))) + count * memory_s(others / count, device)
    weights = 3 * 4 * sum(prod(shape) for shape in shapes[1:])  # read, read again, and their gradients written
    known_s += device.exposed_traffic * weights / device.memory_bandwidth_bytes_per_s
    return Reading(max(times.typical_s - call_s - known_s, 0.0) / count, times.spread,
                   f"{count} kernels of the gradients of a model, {_BLOCKS} blocks {_WIDTH} wide, {_ROWS} rows, less "
                   "arithmetic and traffic")


def kernels(compiled: str) -> int:
    """How many kernels a compiled program runs, loops and branches aside."""
    return len(_KERNEL.findall(compiled[compiled.index("ENTRY"):]))


def _products() -> MatmulSizes:
    """Sizes of the small model's products, forward and backward."""
    rows, wide = _ROWS, _WIDTH
    forward = [(rows, wide, wide)] * 3 + [(rows, rows, wide), (rows, wide, rows)]
    both = [sizes for m, n, k in forward for sizes in ((m, n, k), (m, k, n), (k, n, m))] * _BLOCKS
    m, n, k = np.array(both, dtype=float).T
    return MatmulSizes(np.ones_like(m), m, n, k)


def model_shapes(rows: int) -> list[tuple[int, int]]:
    """Of the arguments of `gradients`."""
    return [(rows, _WIDTH), *[(_WIDTH, _WIDTH)] * (3 * _BLOCKS)]


def gradients(x: jax.Array, *weights: jax.Array) -> jax.Array:
    """Squares of the gradients of a model's mean square: small, so that no time goes into new arrays."""
    def loss(weights: tuple[jax.Array, ...]) -> jax.Array:
        a = x
        for n in range(0, len(weights), 3):
            a = a + _block(a, *weights[n:n + 3])
        return jnp.mean(a * a)

    return jnp.stack([jnp.vdot(g, g) for g in jax.grad(loss)(weights)])


def _block(x: jax.Array, query: jax.Array, inner: jax.Array, outer: jax.Array) -> jax.Array:
    """Normalisation, attention and a layer with a nonlinearity."""
    normal = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)
    mixed = jax.nn.softmax(normal @ query @ normal.T) @ normal
    return jax.nn.gelu(mixed @ inner) @ outer
