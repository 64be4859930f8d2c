"""Frozen dataclasses to JSON and back, led by their type hints and nothing else.

Known hints: `bool int float str None`, dataclasses, `tuple[X, ...]`, `tuple[X, Y]`, and unions of these. A dataclass is
an object, a tuple an array. Both ways check every value against its hint and name the place of what does not fit
(`plan.stages[2].time.compute_s`). A field with a default may be missing; a field that no hint knows may not be there.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar, cast

T = TypeVar("T")

_WIDTH = 120

Place = str | tuple["Place", str | int]
"""Where a value is: what the whole is called, or a place, and the field or element there."""


class JsonShapeError(ValueError):
    """A value does not fit its type hint; the message names the place."""


def encode(value: Any, hint: Any, path: Place) -> Any:
    """A value as what `json.dumps` takes. NumPy scalars become plain numbers.

    Raises:
      JsonShapeError: the value does not fit the hint.
    """
    options = _options(hint)
    if len(options) > 1:
        return _first_that_fits(encode, value, options, path)
    if dataclasses.is_dataclass(hint):
        if type(value) is not hint:
            raise JsonShapeError(f"{_said(path)} is {_shown(value)}, not {_hint_text(hint)}")
        return {name: encode(getattr(value, name), of, (path, name)) for name, of in _fields(hint).items()}
    if _is_tuple(hint):
        if not isinstance(value, tuple):
            raise JsonShapeError(f"{_said(path)} is {_shown(value)}, not {_hint_text(hint)}")
        if _are_plain(cast(tuple[Any, ...], value), hint):
            return list(cast(tuple[Any, ...], value))
        return [encode(v, of, (path, n)) for n, (v, of) in enumerate(_pairs(value, hint, path))]
    return _scalar(value, hint, path)


def decode(value: Any, hint: type[T], path: Place) -> T:
    """The inverse of `encode`, from what `json.loads` gives.

    Raises:
      JsonShapeError: a field is missing, unknown or of the wrong type.
    """
    return _decode(value, hint, path)


def _decode(value: Any, hint: Any, path: Place) -> Any:
    options = _options(hint)
    if len(options) > 1:
        return _first_that_fits(_decode, value, options, path)
    if dataclasses.is_dataclass(hint):
        return _decode_dataclass(value, hint, path)
    if _is_tuple(hint):
        if not isinstance(value, list):
            raise JsonShapeError(f"{_said(path)} is {_shown(value)}, not an array")
        if _are_plain(cast(list[Any], value), hint):
            return tuple(cast(list[Any], value))
        return tuple(_decode(v, of, (path, n)) for n, (v, of) in enumerate(_pairs(value, hint, path)))
    return _scalar(value, hint, path)


def _decode_dataclass(value: Any, hint: Any, path: Place) -> Any:
    if not isinstance(value, dict):
        raise JsonShapeError(f"{_said(path)} is {_shown(value)}, not an object")
    found = cast(dict[str, Any], value)
    hints = _fields(hint)
    unknown = sorted(found.keys() - hints.keys())
    if unknown:
        raise JsonShapeError(f"{_said(path)} has a field {unknown[0]!r} that this version does not know")
    missing = sorted(hints.keys() - found.keys() - _optional(hint))
    if missing:
        raise JsonShapeError(f"{_said(path)} has no field {missing[0]!r}")
    return hint(**{name: _decode(found[name], of, (path, name)) for name, of in hints.items() if name in found})


def _pairs(value: Any, hint: Any, path: Place) -> list[tuple[Any, Any]]:
    """(element, its hint) of a tuple."""
    of = typing.get_args(hint)
    if len(of) == 2 and of[1] is Ellipsis:
        return [(v, of[0]) for v in value]
    if len(value) != len(of):
        raise JsonShapeError(f"{_said(path)} has {len(value)} elements, not {len(of)}")
    return list(zip(value, of, strict=True))


def _scalar(value: Any, hint: Any, path: Place) -> Any:
    plain = value.item() if hasattr(value, "item") else value
    if hint is type(None) and plain is None:
        return None
    if hint is bool and isinstance(plain, bool):
        return plain
    if hint is int and isinstance(plain, int) and not isinstance(plain, bool):
        return int(plain)
    if hint is float and isinstance(plain, int | float) and not isinstance(plain, bool):
        try:
            number = float(plain)
        except OverflowError as fault:
            raise JsonShapeError(f"{_said(path)} is an integer that no float holds") from fault
        if not math.isfinite(number):
            raise JsonShapeError(f"{_said(path)} is {plain}, not a finite number")
        return number
    if hint is str and isinstance(plain, str):
        return str(plain)
    raise JsonShapeError(f"{_said(path)} is {_shown(value)}, not {_hint_text(hint)}")


def _first_that_fits(convert: Any, value: Any, options: tuple[Any, ...], path: Place) -> Any:
    if value is None and type(None) in options:
        return None
    faults: list[JsonShapeError] = []
    for option in options:
        try:
            return convert(value, option, path)
        except JsonShapeError as fault:
            faults.append(fault)
    inside = f"{_said(path)}.", f"{_said(path)}["
    raise max(faults, key=lambda f: str(f).startswith(inside))  # the one that got furthest


def _are_plain(values: Sequence[Any], hint: Any) -> bool:
    """Whether all elements of a tuple are of the one plain type that it has: most of a plan is numbers of values."""
    of = _only_type(hint)
    return of is not None and all(type(v) is of for v in values)


@cache
def _only_type(hint: Any) -> type[int] | type[str] | None:
    of = typing.get_args(hint)
    return of[0] if of[1:] == (...,) and of[0] in (int, str) else None


@cache
def _is_tuple(hint: Any) -> bool:
    return typing.get_origin(hint) is tuple


@cache
def _options(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


@cache
def _fields(hint: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(hint)
    return {f.name: hints[f.name] for f in dataclasses.fields(hint)}


@cache
def _optional(hint: Any) -> frozenset[str]:
    return frozenset(f.name for f in dataclasses.fields(hint)
                     if f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING)


def _said(place: Place) -> str:
    """A place in words; only what does not fit is told of one."""
    if isinstance(place, str):
        return place
    outer, at = place
    return f"{_said(outer)}.{at}" if isinstance(at, str) else f"{_said(outer)}[{at}]"


def _hint_text(hint: Any) -> str:
    return "null" if hint is type(None) else hint.__name__ if isinstance(hint, type) else str(hint)


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def pretty(document: Any, indent: int = 0) -> str:
    """JSON in which whatever fits on a line stands on one line; objects have sorted keys."""
    if not isinstance(document, dict | list) or not document:
        return _line(document)
    if isinstance(document, dict):
        parts = [f"{_line(key)}: {pretty(value, indent + 1)}"
                 for key, value in sorted(cast(dict[str, Any], document).items())]
        begin, end = "{}"
    else:
        items = cast(list[Any], document)
        plain = not any(isinstance(value, dict | list) for value in items)
        parts = list(map(_line, items)) if plain else [pretty(value, indent + 1) for value in items]
        begin, end = "[]"
    length = sum(map(len, parts)) + 2 * len(parts) + indent
    if length <= _WIDTH and not any("\n" in part for part in parts):
        return begin + ", ".join(parts) + end
    pad = " " * (indent + 1)
    return begin + "\n" + ",\n".join(pad + part for part in parts) + "\n" + " " * indent + end


_line = json.JSONEncoder(allow_nan=False, ensure_ascii=False).encode
