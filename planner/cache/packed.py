"""Arrays and plain data as bytes, and back: NumPy's own format, without pickled objects.

In: a header that JSON can say, arrays of numbers by name. Out: bytes; from bytes, the same again or an error.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEADER = "header"

Arrays = Mapping[str, NDArray[Any]]


class PackedError(ValueError):
    """Bytes that `pack` did not write."""


def pack(header: Any, arrays: Arrays) -> bytes:
    """Bytes of both; the same for the same."""
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    out = io.BytesIO()
    np.savez(out, allow_pickle=False, **{HEADER: np.frombuffer(text, dtype=np.uint8)}, **arrays)
    return out.getvalue()


def unpack(content: bytes) -> tuple[Any, dict[str, NDArray[Any]]]:
    """The header and the arrays.

    Raises:
      PackedError: these are other bytes.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
        return json.loads(arrays.pop(HEADER).tobytes()), arrays
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as fault:
        raise PackedError(str(fault)) from fault
