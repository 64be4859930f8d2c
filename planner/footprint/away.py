"""Bytes of activations that wait for their backward in the host's memory, task by task.

It mirrors `runtime/host_transfers.py` on bytes. In: an emitted plan's tasks in order, and bytes per value. Out: how
many bytes of each stage leave and enter the devices around a task, and the most that the host holds.
"""

from collections import deque
from collections.abc import Mapping, Sequence

from planner.core.plan import PlanRecord
from planner.emit.host_memory import Key, Moves, host_moves, waiting_values
from planner.emit.pipeline_code import PipelineCode
from planner.schedules import Task


class Away:
    """A step under way. `most` is per stage, the most bytes of a device that its host holds."""

    def __init__(self, record: PlanRecord, code: PipelineCode, order: Sequence[Task]) -> None:
        self._values, self._layout = waiting_values(record, code), record.layout
        self._moves = host_moves(order, record.layout, [bool(v) for v in self._values])
        self._under_way: dict[int, deque[tuple[int, int]]] = {}
        self._on_host: dict[Key, int] = {}
        self.most = [0 for _ in record.stages]

    def before(self, task: Task) -> dict[int, int]:
        """Change of the bytes on each stage's devices before a task starts."""
        moves, change = self._moves.get(task, Moves()), dict[int, int]()
        sending = self._under_way.setdefault(self._layout.rank_of[task.stage], deque())
        while moves.wait is not None and len(sending) > moves.wait:
            stage, size = sending.popleft()
            change[stage] = change.get(stage, 0) - size
        for key in moves.fetch:
            change[key[0]] = change.get(key[0], 0) + self._on_host.pop(key)
        return change

    def after(self, task: Task, held: Mapping[int, int]) -> None:
        """Note what a task leaves in `held` (bytes by value) that goes to the host: it stays until it is waited for."""
        if not self._moves.get(task, Moves()).send:
            return
        size = sum(b for v, b in held.items() if v in self._values[task.stage])
        self._on_host[task.stage, task.microbatch] = size
        self._under_way.setdefault(self._layout.rank_of[task.stage], deque()).append((task.stage, size))
        mine = sum(b for (stage, _), b in self._on_host.items() if stage == task.stage)
        self.most[task.stage] = max(self.most[task.stage], mine)
