"""Where in the user's program an operator was written: `file.py:line (function)`.

Flows in: a jaxpr equation. Flows out: the innermost frame that is not JAX's, ours, or another library's machinery.
"""

import contextlib
import functools
import os
from collections.abc import Sequence
from typing import Any

from planner import compat

_MACHINERY = frozenset({"jax", "jaxlib", "flax", "optax", "equinox", "chex", "haiku"})
"""Installed packages whose frames never name the place where a user wrote an operator."""

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
"""This package. Its frames end the search: what lies outside them is whoever called the planner."""


class Sources:
    """Sources of equations: those that one line of a loop traced stand in the same place, and are asked for once."""

    def __init__(self) -> None:
        self._known: dict[Any, str] = {}

    def of(self, eqn: Any) -> str:
        """The user's `file.py:line (function)` of an equation, or "" where none is recorded."""
        place = compat.place_of(eqn)
        found = self._known.get(place)
        if found is None:
            found = self._known[place] = first_user_frame(compat.frames_of(place))
        return found


def first_user_frame(frames: Sequence[tuple[str, int, str]]) -> str:
    """The first of (file, line, function), innermost first, that is the user's, as text; "" if there is none."""
    for file, line, function in frames:
        if _is_ours(file):
            return ""
        if not is_machinery(file):
            return f"{os.path.basename(file)}:{line} ({function.rsplit('.', 1)[-1]})"
    return ""


@functools.cache
def is_machinery(file: str) -> bool:
    """Whether a file belongs to JAX, to a library on top of it, or to Python itself."""
    parts = file.replace(os.sep, "/").split("/")
    if "site-packages" in parts:
        return parts[parts.index("site-packages") + 1] in _MACHINERY
    return file.startswith("<") or file in (contextlib.__file__, functools.__file__)


def _is_ours(file: str) -> bool:
    return file.startswith(_OURS + os.sep) and not file.startswith(os.path.join(_OURS, "models") + os.sep)
