"""Writing a file whole or not at all.

In: bytes and a path. Out: a file of that name, complete; an older one stays until then, and nothing else is left
behind.
"""

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the place and move there in one step.

    Raises:
      OSError: the folder can't be written to; say so in the words of whoever asked.
    """
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
        Path(scratch).chmod(0o644)  # mkstemp lets nobody else read
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
