"""Telling a whole folder of files from a damaged one: a list of its files, with sizes and checksums, written last.

In: a folder. Out: `seal.json` in it; later, what is wrong with it. The folder becomes a checkpoint only when it is
renamed, seal and all, so a seal is never missing from one that was finished.
"""

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from planner.core.files import write_atomically

SEAL = "seal.json"
_CHUNK_BYTES = 1 << 20


def seal(folder: Path) -> None:
    """List the files of a folder in its seal.

    Raises:
      OSError: a file cannot be read, or the seal cannot be written.
    """
    files = {path.relative_to(folder).as_posix(): [path.stat().st_size, _crc32(path)] for path in _files(folder)}
    write_atomically(folder / SEAL, json.dumps({"format": 1, "files": files}, indent=1).encode())


def fault(folder: Path) -> str:
    """What is wrong with a sealed folder, in words; "" if nothing is."""
    try:
        listed: Any = json.loads((folder / SEAL).read_bytes())["files"]
        for name, (size, crc32) in listed.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size:,} bytes instead of {size:,}"
            if _crc32(path) != crc32:
                return f"{name} has another checksum than when it was written"
    except FileNotFoundError:
        return f"{SEAL} is missing"
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{SEAL} is damaged"
    return ""


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != SEAL)


def _crc32(path: Path) -> int:
    found = 0
    with path.open("rb") as content:
        while chunk := content.read(_CHUNK_BYTES):
            found = zlib.crc32(chunk, found)
    return found
