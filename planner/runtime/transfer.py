"""Arrays on their way from one stage to another: the one place that knows how bytes travel.

In: arrays, how they lie on the sender's mesh (which every process knows, whether it holds a part of them or not) and
how the receiver wants them. Out: the arrays there. Within a process that is `Routes`.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from planner.runtime.routes import Routes


class Transfers:
    """What carries the arrays of a run over `meshes`, one mesh per stage."""

    def __init__(self, meshes: Sequence[Mesh]) -> None:
        self._meshes, self._routes = tuple(meshes), Routes()

    def place(self, arrays: Sequence[Any], wanted: Sequence[NamedSharding]) -> list[Any]:
        """Arrays of the host, the batch or constants, to where they are wanted."""
        if all(isinstance(x, jax.Array) for x in arrays):
            return self._routes.send(arrays, wanted)
        return jax.device_put(list(arrays), list(wanted))

    def send(self, arrays: Sequence[Any], lie: Sequence[NamedSharding], wanted: Sequence[NamedSharding]) -> list[Any]:
        """Arrays of one stage to another; does not wait for them.

        Args:
          arrays: on the devices of one stage.
          lie: how they lie there.
          wanted: how they shall lie; all on the devices of one stage.
        """
        assert len(arrays) == len(lie) == len(wanted)
        return self._routes.send(arrays, wanted)
