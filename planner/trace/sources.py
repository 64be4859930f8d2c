"""Where in the user's program an operator was written: `file.py:line (function)`.

Flows in: a jaxpr equation. Flows out: the innermost frame that is not JAX's, ours, or another library's machinery.
"""

import os
from collections.abc import Sequence
from typing import Any

from planner import compat

_MACHINERY = ("jax", "jaxlib", "flax", "optax", "equinox", "planner", "chex", "haiku", "contextlib.py", "functools.py")
"""Packages whose frames never name the place where a user wrote an operator."""


def source_of(eqn: Any) -> str:
    """The user's `file.py:line (function)` of an equation, or "" where none is recorded."""
    return first_user_frame(compat.eqn_frames(eqn))


def first_user_frame(frames: Sequence[tuple[str, int, str]]) -> str:
    """The first of (file, line, function), innermost first, that is the user's, as text; "" if there is none."""
    for file, line, function in frames:
        if not _is_machinery(file):
            return f"{os.path.basename(file)}:{line} ({function.rsplit('.', 1)[-1]})"
    return ""


def _is_machinery(file: str) -> bool:
    parts = file.replace("\\", "/").split("/")
    if file.startswith("<"):
        return True
    if parts[-1] in _MACHINERY:
        return True
    if "site-packages" in parts:
        return parts[parts.index("site-packages") + 1] in _MACHINERY
    return "planner" in parts[-3:-1] and "models" not in parts
