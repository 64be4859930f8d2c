"""Reading fields of a JSON object that must all be there, possible, and known.

In: a decoded JSON value and where it is from. Out: values, or a `ProfileError` that names file, field and mend.
"""

import sys
from dataclasses import dataclass, field
from typing import Any, TypeGuard, cast

from planner.errors import ProfileError

_MISSING = object()
_LEAST, _MOST = -sys.float_info.max, sys.float_info.max


@dataclass(frozen=True)
class Fields:
    """One JSON object. Each method takes a field's name and returns its checked value; `refuse_unknown` comes last.

    Attributes:
      data: the object.
      file: where it is from, for messages.
      prefix: where it is in the file, e.g. `"device."`.
      taken: the fields read so far.
      numbers: the numbers read so far anywhere in the file, by path.
    """

    data: dict[str, Any]
    file: str
    prefix: str = ""
    taken: set[str] = field(default_factory=set[str])
    numbers: list[str] = field(default_factory=list[str])

    @classmethod
    def of(cls, data: object, file: str) -> "Fields":
        """The top level of a file."""
        if not _is_object(data):
            raise ProfileError(f"profile {file} holds a {type(data).__name__}, not an object", "start it with {")
        return cls(data, file)

    def __contains__(self, name: str) -> bool:
        return name in self.data

    def text(self, name: str, default: str | None = None) -> str:
        """A string; empty only where there is a default."""
        value = self._get(name, _MISSING if default is None else default)
        if not isinstance(value, str) or (not value and default is None):
            raise self._wrong(name, value, "give a text")
        return value

    def choice(self, name: str, known: tuple[str, ...]) -> str:
        """One of a few texts."""
        value = self.text(name)
        if value not in known:
            raise self._wrong(name, value, f"known: {', '.join(known)}")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        """true or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, value, "give true or false")
        return value

    def positive(self, name: str) -> float:
        """A finite number above zero."""
        value = self._number(name)
        if not value > 0:
            raise self._wrong(name, value, "give a number above zero")
        return value

    def at_least_one(self, name: str, default: float) -> float:
        """A finite number, one or above."""
        value = self.non_negative(name, default)
        if not value >= 1:
            raise self._wrong(name, value, "give one or a number above")
        return value

    def non_negative(self, name: str, default: float | None = None) -> float:
        """A finite number, zero or above."""
        if default is not None and name not in self:
            self.taken.add(name)
            return default
        value = self._number(name)
        if not value >= 0:
            raise self._wrong(name, value, "give zero or a number above")
        return value

    def part(self, name: str) -> float:
        """A number from 0 to 1, 0 where it is missing."""
        value = self.non_negative(name, default=0.0)
        if value > 1:
            raise self._wrong(name, value, "give a number from 0 to 1")
        return value

    def fraction(self, name: str) -> float:
        """A number above 0, at most 1."""
        value = self._number(name)
        if not 0 < value <= 1:
            raise self._wrong(name, value, "give a fraction above 0 and at most 1")
        return value

    def count(self, name: str) -> int:
        """A whole number above zero."""
        value = self._number(name)
        if value < 1 or value != int(value):
            raise self._wrong(name, value, "give a whole number above zero")
        return int(value)

    def ascending(self, name: str) -> tuple[int, ...]:
        """A list of whole numbers above zero, each larger than the one before; at least one."""
        value = self._get(name)
        if not _is_counts(value) or not value or sorted(set(value)) != value or value[0] < 1:
            raise self._wrong(name, value, "give whole numbers above zero, ascending")
        return tuple(value)

    def positives(self, name: str, count: int) -> tuple[float, ...]:
        """A list of so many finite numbers above zero."""
        value = self._get(name)
        if not _is_numbers(value) or len(value) != count or not all(0 < x <= _MOST for x in value):
            raise self._wrong(name, value, f"give {count} numbers above zero")
        return tuple(float(x) for x in value)

    def rates(self, name: str, needs: str) -> tuple[tuple[str, float], ...]:
        """An object of positive numbers that has at least the key `needs`."""
        inner = self.inner(name)
        found = tuple((key, inner.positive(key)) for key in inner.data)
        inner.positive(needs)
        return found

    def inner(self, name: str) -> "Fields":
        """An object within this one."""
        value = self._get(name)
        if not _is_object(value):
            raise self._wrong(name, value, "give an object { ... }")
        return Fields(value, self.file, f"{self.prefix}{name}.", numbers=self.numbers)

    def is_text(self, name: str) -> bool:
        """Whether a field that may be a text or an object is a text, or isn't there."""
        return not _is_object(self.data.get(name))

    def apart(self, name: str) -> "Fields":
        """An object within this one that has sources of its own."""
        return Fields(self.inner(name).data, self.file, f"{self.prefix}{name}.")

    def items(self, name: str) -> list["Fields"]:
        """A list of objects; empty if the field is absent. They need one source together."""
        found = self.objects(name)
        if found:
            self.numbers.append(f"{self.prefix}{name}")
        return found

    def objects(self, name: str) -> list["Fields"]:
        """A list of objects that need no source; empty if the field is absent."""
        value = self._get(name, [])
        if not _is_objects(value):
            raise self._wrong(name, value, "give a list of objects")
        return [Fields(item, self.file, f"{self.prefix}{name}[{n}].") for n, item in enumerate(value)]

    def sources(self, name: str) -> tuple[tuple[str, str], ...]:
        """The source of each number read so far: keys are fields, or objects that hold them.

        Every number needs one, and every key must name something.
        """
        inner = self.inner(name)
        found = tuple((key, inner.text(key)) for key in inner.data)
        keys, numbers = {key for key, _ in found}, [number.removeprefix(self.prefix) for number in self.numbers]
        for number in numbers:
            if not any(number == key or number.startswith(f"{key}.") for key in keys):
                raise ProfileError(f"profile {self.file}: {self.prefix}{number} has no source",
                                   f"say in {self.prefix + name!r} where it is from")
        for key in keys:
            if not any(number == key or number.startswith(f"{key}.") for number in numbers):
                raise ProfileError(f"profile {self.file}: {self.prefix}{name}.{key} names no number of it",
                                   "correct the name")
        return found

    def refuse_unknown(self) -> None:
        """Raise if the object has a field that nobody asked for."""
        if unknown := sorted(set(self.data) - self.taken):
            raise ProfileError(f"profile {self.file}: unknown field {self.prefix}{unknown[0]}",
                               f"known here: {', '.join(sorted(self.taken))}")

    def _number(self, name: str) -> float:
        value = self._get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _LEAST <= value <= _MOST:
            raise self._wrong(name, value, "give a finite number")
        self.numbers.append(f"{self.prefix}{name}")
        return value

    def _get(self, name: str, default: object = _MISSING) -> Any:
        self.taken.add(name)
        value = self.data.get(name, default)
        if value is _MISSING:
            raise ProfileError(f"profile {self.file}: {self.prefix}{name} is missing", "add it, in SI units")
        return value

    def _wrong(self, name: str, value: object, mend: str) -> ProfileError:
        return ProfileError(f"profile {self.file}: {self.prefix}{name} is {value!r}", mend)


def _is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _is_objects(value: object) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(value, list) and all(isinstance(item, dict) for item in cast("list[object]", value))


def _is_counts(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int for item in cast("list[object]", value))


def _is_numbers(value: object) -> TypeGuard[list[float]]:
    return isinstance(value, list) and all(type(item) in (int, float) for item in cast("list[object]", value))
