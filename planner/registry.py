"""A folder that is a table: every module in a package is imported once, and what it registers is looked up by name.

Dropping a file into the folder is the whole registration. A `Table` is filled by decorators in those modules; `load`
imports them all, and marks the table as loaded only when every import succeeded.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from planner.errors import UnknownNameError

T = TypeVar("T")


class Table(Generic[T]):
    """Name -> entry, filled by the modules of one package.

    Args:
      package: dotted name of the package whose modules register entries, e.g. `"planner.rules"`.
      kind: what an entry is, for error messages, e.g. `"schedule"`.
    """

    def __init__(self, package: str, kind: str) -> None:
        self._package = package
        self._kind = kind
        self._entries: dict[str, T] = {}
        self._loaded = False

    def register(self, *names: str) -> Callable[[T], T]:
        """Decorator: file an entry under one or more names. A name taken twice is a programming error."""

        def add(entry: T) -> T:
            for name in names:
                if name in self._entries and self._entries[name] is not entry:
                    raise ValueError(f"{self._kind} {name!r} is registered twice")
                self._entries[name] = entry
            return entry

        return add

    def load(self) -> None:
        """Import every module of the package (once)."""
        if self._loaded:
            return
        package = importlib.import_module(self._package)
        for module in sorted(m.name for m in pkgutil.iter_modules(package.__path__)):
            importlib.import_module(f"{self._package}.{module}")
        self._loaded = True

    def get(self, name: str) -> T | None:
        """The entry of that name, or None."""
        self.load()
        return self._entries.get(name)

    def __getitem__(self, name: str) -> T:
        entry = self.get(name)
        if entry is None:
            raise UnknownNameError(self._kind, name, tuple(self._entries))
        return entry

    def __iter__(self) -> Iterator[str]:
        self.load()
        return iter(sorted(self._entries))
