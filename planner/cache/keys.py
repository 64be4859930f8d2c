"""The names of what is kept: a hash of everything that a result depends on, the code that makes it included.

In: values of the kinds that the search computes with. Out: hex text, the same in every process.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from planner.errors import PlannerError

UNUSED = frozenset({"adapters", "check", "checkpoint", "cli", "emit", "footprint", "measure", "models", "policies",
                    "processes", "profiles", "report", "runtime", "simulate", "sweeping", "verify", "whatif"})
"""Rooms of this package that no slice table comes from. What is not named here counts, so that a new room does."""


def digest(*parts: object) -> str:
    """SHA-256 (hex) of values: numbers, text, dataclasses, sequences, sets, mappings, arrays of numbers.

    Raises:
      PlannerError: a value of another kind, of which nothing is known that would tell it from others.
    """
    found = hashlib.sha256()
    for part in parts:
        _feed(found.update, part)
    return found.hexdigest()


@cache
def source_digest(folder: Path = Path(__file__).parent.parent, without: frozenset[str] = UNUSED) -> str:
    """SHA-256 (hex) of the source of this package, but for the rooms that results don't depend on."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        inside = path.relative_to(folder)
        if inside.parts[0] not in without:
            found.update(f"{inside.as_posix()}\n".encode())
            found.update(path.read_bytes())
    return found.hexdigest()


def _feed(update: Callable[[bytes], object], value: object) -> None:
    """Every value with its kind and length before it, so that no two sequences of values read the same."""
    if value is None or isinstance(value, bool | int | float | str | np.integer | np.floating):
        plain = value.item() if isinstance(value, np.generic) else value
        text = (plain.hex() if isinstance(plain, float) else str(plain)).encode()
        update(f"{type(plain).__name__} {len(text)} ".encode() + text)
    elif isinstance(value, Enum):
        _feed(update, (type(value).__name__, value.name))
    elif isinstance(value, bytes):
        update(f"bytes {len(value)} ".encode() + value)
    elif isinstance(value, np.ndarray):
        array = cast(NDArray[Any], value)
        if array.dtype.hasobject:
            raise PlannerError("an array of objects can't be hashed", "this is a fault of what asks for a key")
        update(f"array {array.dtype.str} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
        update(f"{type(value).__name__} {len(named)} ".encode())
        for name, inner in named:
            update(f"{name} ".encode())
            _feed(update, inner)
    elif isinstance(value, Mapping):
        _feed_sorted(update, "mapping", [(k, v) for k, v in cast(Mapping[Any, Any], value).items()])
    elif isinstance(value, Set):
        _feed_sorted(update, "set", cast(Set[Any], value))
    elif isinstance(value, Sequence):
        items = cast(Sequence[Any], value)
        update(f"sequence {len(items)} ".encode())
        for inner in items:
            _feed(update, inner)
    else:
        raise PlannerError(f"{type(value).__name__} can't be hashed", "this is a fault of what asks for a key")


def _feed_sorted(update: Callable[[bytes], object], kind: str, items: Iterable[object]) -> None:
    found = sorted(digest(item) for item in items)
    update(f"{kind} {len(found)} {' '.join(found)}".encode())
