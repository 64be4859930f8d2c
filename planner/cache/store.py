"""A folder of files named by what they depend on: bounded in size, safe for many processes, damage is found.

A file appears whole or not at all (`core/files.py`), so that nobody reads half of one; two processes that make the same
one write equal bytes. It starts with a checksum of the rest: a file that does not match is removed and counts as
missing. Reading one marks it as used; when the folder is above its bound, those go that were not used for longest. A
folder that can't be written is a store that keeps nothing.

In: a kind and a key (hex text), bytes. Out: the bytes, or None.
"""

import hashlib
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from planner.core.files import write_atomically
from planner.errors import PlannerError

MAGIC = b"planner-cache 1\n"
SUFFIX = ".kept"
FRONTIERS = "frontiers"

LIMIT_BYTES = 4 * 2**30
"""What a folder may hold. [chosen: the tables of about ten of the largest models that were planned]"""

WRITERS = 8
"""What is left of the bound is ours to fill for one part in so many before the folder is looked through again, as
others may write as well. [chosen]"""

ABANDONED_S = 3600.0
"""A file half written for so long has no writer any more. [chosen]"""


def default_folder() -> Path:
    """`~/.cache/planner/frontiers`."""
    return Path.home() / ".cache" / "planner" / FRONTIERS


@dataclass(frozen=True)
class Entry:
    """A file of a store: name, size, when it was last used (seconds of the system's clock)."""

    path: Path
    bytes: int
    used_s: float


@dataclass(frozen=True)
class Cache:
    """See the module.

    Attributes:
      folder: where the files are; it is made when the first is written.
      limit_bytes: of all files together.
      say: told, once each, of damaged files and of a folder that can't be written.
    """

    folder: Path
    limit_bytes: int = LIMIT_BYTES
    say: Callable[[str], None] = lambda text: warnings.warn(text, RuntimeWarning, stacklevel=3)
    _said: set[str] = field(default_factory=set[str], compare=False, repr=False)
    _room: dict[str, int] = field(default_factory=dict[str, int], compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.limit_bytes < 0:
            raise PlannerError(f"a cache of {self.limit_bytes} bytes", "give a bound of 0 bytes or more")

    def get(self, kind: str, key: str) -> bytes | None:
        """What was kept under a key; None if there is nothing, or nothing that can be trusted."""
        path = self._path(kind, key)
        try:
            found = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as fault:
            self._say_once("read", f"the cache {self.folder} can't be read ({fault.strerror or fault}): it is not used")
            return None
        start = len(MAGIC) + hashlib.sha256().digest_size
        content = found[start:]
        if found[:len(MAGIC)] != MAGIC or found[len(MAGIC):start] != hashlib.sha256(content).digest():
            self.forget(kind, key, "its checksum is not that of its content")
            return None
        with suppress(OSError):  # somebody removed it, or it may only be read: it was read all the same
            os.utime(path)
        return content

    def has(self, kind: str, key: str) -> bool:
        """Whether there is something under a key, which may be damaged."""
        return self._path(kind, key).is_file()

    def put(self, kind: str, key: str, content: bytes) -> bool:
        """Keep bytes under a key; whether that was done. What is larger than the bound is not kept."""
        path, whole = self._path(kind, key), MAGIC + hashlib.sha256(content).digest() + content
        if len(whole) > self.limit_bytes or "write" in self._said:
            return False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, whole)
        except OSError as fault:
            self._say_once("write", f"the cache {self.folder} can't be written ({fault.strerror or fault}): nothing is "
                           "kept for next time")
            return False
        self._room["bytes"] = self._room.get("bytes", 0) - len(whole)
        if self._room["bytes"] < 0:
            self.trim(path)
            self._room["bytes"] = (self.limit_bytes - self.used_bytes()) // WRITERS
        return True

    def forget(self, kind: str, key: str, why: str) -> None:
        """Remove a file that is not what it should be, and say so once."""
        path = self._path(kind, key)
        self._say_once("damage", f"{path} in the cache is damaged or not ours ({why}): it is removed and made again")
        _remove(path)

    def entries(self) -> list[Entry]:
        """The files there are, the least recently used first."""
        return sorted(self._files(SUFFIX), key=lambda e: (e.used_s, e.path.name))

    def used_bytes(self) -> int:
        """Bytes of all files."""
        return sum(e.bytes for e in self.entries())

    def trim(self, newest: Path | None = None) -> None:
        """Remove what was not used for longest until the bound is kept; `newest` stays."""
        found = self.entries()
        total = sum(e.bytes for e in found)
        if total <= self.limit_bytes:
            return
        for left in self._files(""):
            if left.path.name.startswith(".") and time.time() - left.used_s > ABANDONED_S:
                _remove(left.path)
        for entry in found:
            if total <= self.limit_bytes:
                return
            if entry.path != newest:
                _remove(entry.path)
                total -= entry.bytes

    def clear(self) -> int:
        """Remove all files; how many bytes they were. Files of others stay."""
        freed = 0
        for entry in [*self.entries(), *(e for e in self._files("") if e.path.name.startswith("."))]:
            _remove(entry.path)
            freed += entry.bytes
        return freed

    def _path(self, kind: str, key: str) -> Path:
        return self.folder / f"{kind}-{key}{SUFFIX}"

    def _files(self, suffix: str) -> Iterator[Entry]:
        try:
            with os.scandir(self.folder) as found:
                for item in found:
                    if not item.name.endswith(suffix) or (not suffix and SUFFIX not in item.name):
                        continue
                    try:
                        facts = item.stat(follow_symlinks=False)
                    except OSError:  # removed by another process
                        continue
                    yield Entry(Path(item.path), facts.st_size, facts.st_mtime)
        except OSError:
            return

    def _say_once(self, what: str, text: str) -> None:
        if what not in self._said:
            self._said.add(what)
            self.say(text)


def cache_of(asked: Cache | bool, folder: Path | None = None) -> Cache | None:  # noqa: FBT001  or a cache
    """The cache that is asked for: one that is given, that of a folder (default: the user's own), or none."""
    if isinstance(asked, Cache):
        return asked
    return Cache(folder or default_folder()) if asked else None


def _remove(path: Path) -> None:
    with suppress(OSError):  # a folder that may only be read: whoever may write trims it
        path.unlink(missing_ok=True)
