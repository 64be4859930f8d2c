"""Arrays on their way between devices and their host's memory, and a limit to how many are.

A device keeps what it sends until it is sent. JAX starts everything it is told to at once; without a limit, a step
whose work runs ahead of its transfers would hold all that was to be away. In: arrays, and where they shall lie. Out:
the arrays there, while they are being made.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from planner.runtime.stage_program import has_part, without_numbers


def moved(array: Any, where: NamedSharding) -> Any:
    """An array in another memory of the same devices; where none of them is of this process, one without numbers."""
    assert isinstance(where.mesh, Mesh)
    return jax.device_put(array, where) if has_part(where.mesh) else without_numbers(array.shape, array.dtype, where)


class UnderWay:
    """Groups of arrays on their way to the host; at most `most` groups once `add` returns."""

    def __init__(self, most: int) -> None:
        self._most, self._groups = most, deque[Sequence[Any]]()

    def add(self, arrays: Sequence[Any]) -> None:
        """Take note of a group; waits for the oldest ones."""
        self._groups.append(arrays)
        while len(self._groups) > self._most:
            jax.block_until_ready(self._groups.popleft())
