"""Arrays and plain data as bytes, and back.

A line of JSON says what follows: the header that was given, and of each array its name, type and shape; then come the
arrays' numbers, one after another. (NumPy's own format of several arrays is a ZIP archive, which takes ten times as
long.)

In: a header that JSON can say, arrays of numbers by name. Out: bytes; from bytes, the same again or an error.
"""

import json
from collections.abc import Mapping
from math import prod
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

KINDS = "biuf"
"""Types of numbers, as `np.dtype.kind` has them: no objects, which would be pickled."""

Arrays = Mapping[str, NDArray[Any]]


class PackedError(ValueError):
    """Bytes that `pack` did not write."""


def pack(header: Any, arrays: Arrays) -> bytes:
    """Bytes of both; the same for the same.

    Raises:
      ValueError: an array of something else than numbers.
    """
    for name, array in arrays.items():
        if array.dtype.kind not in KINDS:
            raise ValueError(f"{name!r} is an array of {array.dtype}, not of numbers")
    said = [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]
    text = json.dumps([header, said], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return b"".join([text.encode(), b"\n", *(array.tobytes() for array in arrays.values())])


def unpack(content: bytes) -> tuple[Any, dict[str, NDArray[Any]]]:
    """The header and the arrays.

    Raises:
      PackedError: these are other bytes.
    """
    try:
        at = content.index(b"\n") + 1
        header, said = json.loads(content[:at])
        arrays: dict[str, NDArray[Any]] = {}
        for name, kind, shape in cast("list[tuple[str, str, list[int]]]", said):
            dtype = np.dtype(kind)
            if dtype.kind not in KINDS or min(shape, default=0) < 0:
                raise PackedError(f"{name!r} of type {kind} and shape {shape} is no array of numbers")
            count = prod(shape)
            arrays[name] = np.frombuffer(content, dtype, count, at).reshape(shape).copy()
            at += count * dtype.itemsize
    except (ValueError, TypeError, OverflowError) as fault:
        raise PackedError(str(fault)) from fault
    if at != len(content):
        raise PackedError(f"{len(content)} bytes, not {at}")
    return header, arrays
