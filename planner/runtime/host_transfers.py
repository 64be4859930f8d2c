"""Arrays on their way between devices and their host's memory, and a limit to how many are.

A device keeps what it sends until it is sent. JAX starts everything it is told to at once; without a limit, a step
whose work runs ahead of its transfers would hold all that was to be away. In: arrays, and where they shall lie. Out:
the arrays there, while they are being made.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from planner.core.layout import Layout
from planner.core.plan import HOST
from planner.emit.host_memory import Key, Moves
from planner.runtime.stage_program import has_part, without_numbers
from planner.schedules import Task


def moved(array: Any, where: NamedSharding) -> Any:
    """An array in another memory of the same devices; where none of them is of this process, one without numbers."""
    assert isinstance(where.mesh, Mesh)
    return jax.device_put(array, where) if has_part(where.mesh) else without_numbers(array.shape, array.dtype, where)


class UnderWay:
    """Groups of arrays on their way to the host, or being made."""

    def __init__(self) -> None:
        self._groups = deque[Sequence[Any]]()

    def add(self, arrays: Sequence[Any]) -> None:
        """Take note of a group."""
        self._groups.append(arrays)

    def settle(self, most: int) -> None:
        """Wait for the oldest until there are at most that many; not for arrays that were given away since."""
        while len(self._groups) > most:
            jax.block_until_ready([x for x in self._groups.popleft() if not x.is_deleted()])


class Waiting:
    """Activations of a step under way that wait in the host's memory: moves what `emit/host_memory.py` says.

    Args:
      values: per stage, what waits there.
      moves: of every task around which something is moved.
      layout: of the stages.
    """

    def __init__(self, values: Sequence[frozenset[int]], moves: Mapping[Task, Moves], layout: Layout) -> None:
        self._values, self._moves, self._layout = values, moves, layout
        self._lay: dict[tuple[Key, int], NamedSharding] = {}
        self._under_way: dict[int, UnderWay] = {}

    def before(self, task: Task, held: Mapping[Key, dict[int, Any]]) -> None:
        """Bring back, into `held`, what is needed by now or soon."""
        moves = self._moves.get(task, _NONE)
        if moves.wait is not None:
            self._of(task).settle(moves.wait)
        for key in moves.fetch:
            mine = held[key]
            mine.update({v: moved(mine[v], self._lay.pop((key, v))) for v in self._values[key[0]] if v in mine})

    def after(self, task: Task, held: Mapping[Key, dict[int, Any]]) -> None:
        """Send what a task has left in `held`, where it may wait."""
        if not self._moves.get(task, _NONE).send:
            return
        key = (task.stage, task.microbatch)
        mine = held[key]
        leaving = {v: mine[v] for v in self._values[task.stage] if v in mine}
        self._lay |= {(key, v): x.sharding for v, x in leaving.items()}
        gone = {v: moved(x, x.sharding.with_memory_kind(HOST)) for v, x in leaving.items()}
        mine.update(gone)
        self._of(task).add(list(gone.values()))

    def _of(self, task: Task) -> UnderWay:
        return self._under_way.setdefault(self._layout.rank_of[task.stage], UnderWay())


_NONE = Moves()
