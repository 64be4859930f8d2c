"""Where a pipeline's tasks repeat: the same stages and kinds in the same order, for later microbatches.

In: the tasks of a step in order. Out: a `Repetition`, or None.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from planner.core.plan import PlanRecord
from planner.schedules import SCHEDULES, Task


@dataclass(frozen=True)
class Repetition:
    """Tasks [first, first + length) of the order are so that each is the one `period` before it, `microbatches`
    later."""

    first: int
    length: int
    period: int
    microbatches: int


def repetition(record: PlanRecord, order: Sequence[Task]) -> Repetition | None:
    """The longest stretch of tasks that repeats by one microbatch, or by a round of the ranks for schedules that go in
    rounds; None if it holds no three repetitions."""
    later = record.layout.ranks if SCHEDULES[record.schedule].in_rounds else 1
    if record.microbatches < 3 * later:
        return None
    period = len(order) // record.microbatches * later
    kinds = {kind: n for n, kind in enumerate(dict.fromkeys(t.phase for t in order))}
    rows = np.array([(t.stage * len(kinds) + kinds[t.phase], t.microbatch) for t in order], dtype=np.int64)
    same = ((rows[period:] - rows[:-period]) == (0, later)).all(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], same.astype(np.int8), [0]])))
    if not len(edges):
        return None
    starts, ends = edges[::2], edges[1::2]
    best = int(np.argmax(ends - starts))
    found = Repetition(int(starts[best]), int(ends[best] - starts[best]) + period, period, later)
    return found if found.length >= 3 * period else None
