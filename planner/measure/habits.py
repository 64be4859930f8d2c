"""What the compiler makes of collectives and of results that read the same, read from what it compiles: habits that
change what a plan costs.

In: devices. Out: flags of `core.hardware.Cluster` and `Device`.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from planner.measure.timing import INNER, Devices


def sums_then_slices(devices: Devices) -> bool:
    """Whether the compiler makes an all-reduce of what could be a reduce-scatter."""
    _, rows, columns = _shardings(devices)
    return "reduce-scatter" not in _compiled(jnp.matmul, devices, 2, (columns, rows), rows)


def adds_then_sums(devices: Devices) -> bool:
    """Whether the compiler adds partial sums on each device before it all-reduces them."""
    whole, rows, columns = _shardings(devices)
    text = _compiled(lambda a, b, c, d: a @ b + c @ d, devices, 4, (columns, rows) * 2, whole)
    combined = re.findall(r"= (.*) all-reduce(?:-start)?\(", text)
    size = _side(devices)
    return sum(arrays.count(f"f32[{size},{size}]") for arrays in combined) == 1


def merges(devices: Devices) -> bool:
    """Whether the compiler makes one all-reduce of several that don't wait for each other."""
    whole, rows, columns = _shardings(devices)
    text = _compiled(lambda a, b, c, d: (a @ b, c @ d), devices, 4, (columns, rows) * 2, whole)
    return len(re.findall(r" all-reduce(?:-start)?\(", text)) == 1


def kernel_per_result(devices: Devices) -> bool:
    """Whether the compiler makes a kernel for each of two results of the same arrays."""
    vector = jax.ShapeDtypeStruct((1 << 16,), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(devices[0]))
    program = jax.jit(lambda a, b: (jnp.tanh(a) * b, jnp.tanh(a) - b))
    text = program.lower(vector, vector).compile().as_text() or ""
    return len(re.findall(r" fusion\(", text[text.index("ENTRY"):])) > 1


def _shardings(devices: Devices) -> tuple[NamedSharding, NamedSharding, NamedSharding]:
    """Of a matrix: on every device, by rows, by columns."""
    mesh = Mesh(np.array(devices), (INNER,))
    whole, rows, columns = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in ((), (INNER, None), (None, INNER)))
    return whole, rows, columns


def _side(devices: Devices) -> int:
    return 16 * len(devices)


def _compiled(function: Callable[..., Any], devices: Devices, operands: int, given: tuple[NamedSharding, ...],
              result: NamedSharding) -> str:
    """The compiled program of a function of square matrices."""
    matrix = jax.ShapeDtypeStruct((_side(devices),) * 2, jnp.float32)
    program = jax.jit(function, in_shardings=given, out_shardings=result)
    return program.lower(*(matrix,) * operands).compile().as_text() or ""
