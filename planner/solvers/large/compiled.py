"""Compile a loop with numba: without the GIL, kept on disk between runs where some directory can be written."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])

LOOSE = frozenset({"nnan", "nsz", "reassoc", "arcp", "contract"})
"""Float freedoms that let minima be vectorised: there are no NaNs, and infinities stay what they are."""


MINIMUM = frozenset({"nnan", "nsz"})
"""Those that vectorise a minimum and leave sums as they are written."""


def compiled(function: F) -> F:
    """The function, compiled at its first call."""
    return _compiled(function, frozenset())


def compiled_loose(function: F) -> F:
    """The same for loops that only take minima of differences, vectorised."""
    return _compiled(function, LOOSE)


def compiled_minimum(function: F) -> F:
    """The same for loops that take minima, vectorised, with sums to the bit as written."""
    return _compiled(function, MINIMUM)


def _compiled(function: F, freedoms: frozenset[str]) -> F:
    flags = set(freedoms) or False  # numba takes a set only
    try:
        made = numba.njit(cache=True, nogil=True, fastmath=flags)(function)
    except RuntimeError:  # numba's word for: no directory for the cache can be written
        made = numba.njit(nogil=True, fastmath=flags)(function)
    return cast(F, made)
