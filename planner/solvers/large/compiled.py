"""Compile a loop with numba: without the GIL, kept on disk between runs where some directory can be written."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])

LOOSE = frozenset({"nnan", "nsz", "reassoc", "arcp", "contract"})
"""Float freedoms that let minima be vectorised: there are no NaNs, and infinities stay what they are."""


def compiled(function: F) -> F:
    """The function, compiled at its first call."""
    return _compiled(function, loose=False)


def compiled_loose(function: F) -> F:
    """The same for loops that only take minima of differences, vectorised."""
    return _compiled(function, loose=True)


def _compiled(function: F, *, loose: bool) -> F:
    flags = set(LOOSE) if loose else False  # numba takes a set only
    try:
        made = numba.njit(cache=True, nogil=True, fastmath=flags)(function)
    except RuntimeError:  # numba's word for: no directory for the cache can be written
        made = numba.njit(nogil=True, fastmath=flags)(function)
    return cast(F, made)
