"""Static parameters of operators as JSON and back: what rules read of them, and what fingerprints say of them.

Numbers, text, tuples and named tuples come back as they were. Of other objects (JAX's own, which this room doesn't
know) the text that a fingerprint has of them comes back, and the fields of dataclasses; functions and nested programs
are what an operator's bodies say, and leave nothing but their place.

In: values of `Op.params`. Out: what `json.dumps` takes; from that, stand-ins.
"""

import collections
import dataclasses
from collections.abc import Sequence
from enum import Enum
from types import SimpleNamespace
from typing import Any, cast

import ml_dtypes
import numpy as np

from planner.core.fingerprint import value_text


class StandIn(SimpleNamespace):
    """An object that is not kept: its fields, and the text that tells it from others."""

    def __init__(self, said: str, fields: dict[str, Any]) -> None:
        super().__init__(**fields)
        self._said = said

    def __repr__(self) -> str:
        return self._said

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StandIn) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


NOTHING_SAID = "<left out at 0x0>"
"""Fingerprints leave out what names an address."""


def coded(value: Any) -> Any:
    """A parameter as what JSON can say: plain values as they are, others as [kind, ...]."""
    if value is None or isinstance(value, bool | str) or type(value) in (int, float):
        return value if not isinstance(value, float) or np.isfinite(value) else ["float", str(value)]
    if isinstance(value, np.dtype):
        return ["dtype", str(cast(Any, value))]
    if isinstance(value, tuple | list):
        items = [coded(v) for v in cast(Sequence[Any], value)]
        fields: Any = getattr(cast(Any, value), "_fields", None)
        if fields is not None:
            return ["named", type(cast(Any, value)).__name__, list(fields), items]
        return ["tuple" if isinstance(value, tuple) else "list", items]
    if isinstance(value, np.ndarray | np.generic):
        array = cast(Any, value)
        return ["array", str(array.dtype), list(array.shape), array.tolist()]
    said = value_text(value)
    fields = {f.name: coded(getattr(value, f.name)) for f in dataclasses.fields(value)} \
        if dataclasses.is_dataclass(value) and not isinstance(value, type) and said is not None \
        and not isinstance(value, Enum) else {}
    return ["other", NOTHING_SAID if said is None else said, fields]


def decoded(value: Any) -> Any:
    """What `coded` was given, or what stands for it.

    Raises:
      ValueError, TypeError: it is not what `coded` gives.
    """
    if not isinstance(value, list):
        return value
    kind, *rest = cast("list[Any]", value)
    if kind == "tuple":
        return tuple(decoded(v) for v in rest[0])
    if kind == "list":
        return [decoded(v) for v in rest[0]]
    if kind == "named":
        make: Any = getattr(collections, "namedtuple")  # noqa: B009  fields come from the file, types with them
        return make(rest[0], rest[1])(*(decoded(v) for v in rest[2]))
    if kind == "float":
        return float(rest[0])
    if kind == "dtype":
        return _dtype(rest[0])
    if kind == "array":
        return np.array(rest[2], dtype=_dtype(rest[0])).reshape(rest[1])[()]
    if kind == "other":
        return StandIn(rest[0], {name: decoded(v) for name, v in rest[1].items()})
    raise ValueError(f"{kind!r} is no kind of parameter")


def _dtype(name: str) -> Any:
    """By name; one that NumPy doesn't know, as PRNG keys have, as a stand-in of that name."""
    try:
        return np.dtype(getattr(ml_dtypes, name, name))
    except TypeError:
        return StandIn(name, {})
