"""Bytes: of elements, of shards, and of everything alive at once.

In: dtypes, shapes, specs, live intervals. Out: bytes per device.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from math import prod
from types import MappingProxyType

import ml_dtypes
import numpy as np

from planner.core.graph import Value
from planner.core.spec import Spec

_KEY_BYTES = MappingProxyType({"fry": 8, "rbg": 16, "urbg": 16})
"""Bytes of one typed PRNG key: Threefry holds two 32-bit words, RBG and unsafe RBG four (jax.random docs)."""


@cache
def itemsize(dtype: str) -> int:
    """Bytes of one element in device memory; types below a byte count as one, as unpacked arrays hold them.

    Raises:
      ValueError: if the name is no dtype.
    """
    if dtype.startswith("key<") and dtype.endswith(">"):
        if (name := dtype[4:-1]) not in _KEY_BYTES:
            raise ValueError(f"unknown PRNG key type {dtype!r}; known: {', '.join(_KEY_BYTES)}")
        return _KEY_BYTES[name]
    try:
        return np.dtype(getattr(ml_dtypes, dtype, dtype)).itemsize
    except TypeError as error:
        raise ValueError(f"unknown dtype {dtype!r}") from error


def sum_itemsize(dtype: str) -> int:
    """Bytes of one element of a sum over microbatches: 16-bit gradients are summed in float32."""
    return max(itemsize(dtype), 4)


def value_bytes(value: Value) -> int:
    """Bytes of a whole tensor."""
    return prod(value.shape) * itemsize(value.dtype)


def shard_bytes(value: Value, spec: Spec, mesh_shape: tuple[int, ...]) -> int:
    """Bytes of one device's shard of a tensor; a remainder rounds up, as the largest shard does."""
    size = itemsize(value.dtype)
    for length, axes in zip(value.shape, spec, strict=True):
        size *= -(-length // prod([mesh_shape[a] for a in axes])) if axes else length
    return size


@dataclass(frozen=True, slots=True)
class Live:
    """Bytes in use during the half-open interval [start, end)."""

    start: int
    end: int
    bytes: int


def peak(intervals: Iterable[Live]) -> tuple[int, int]:
    """(bytes, time) of the largest sum of live intervals, at the first time it is reached; (0, 0) without any."""
    change: dict[int, int] = {}
    for live in intervals:
        if live.start < live.end:
            change[live.start] = change.get(live.start, 0) + live.bytes
            change[live.end] = change.get(live.end, 0) - live.bytes
    use, most, when = 0, 0, 0
    for time in sorted(change):
        use += change[time]
        if use > most:
            most, when = use, time
    return most, when
