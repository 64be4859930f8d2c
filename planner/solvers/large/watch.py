"""Only the times at which memory is tight, for a search that changes usage a million times.

A search keeps usage at a few watched times; whoever runs it checks the outcome at all times now and then, and watches
the peaks that were missed.
"""

from dataclasses import replace

import numpy as np

from planner.solvers.large.flat import FlatModel, Ints, Memory


def watch(model: FlatModel, times: Ints) -> FlatModel:
    """The model with only these grid times (ascending); memory at other times is ignored."""
    memory = model.memory
    first, last = np.searchsorted(times, memory.first), np.searchsorted(times, memory.last)
    keep = first < last
    counted = np.concatenate([[0], np.cumsum(keep)])
    watched = Memory(
        counted[memory.use], first[keep], last[keep], memory.place[keep], memory.usages, memory.room[times]
    )
    return replace(model, memory=watched)


def peaks(usage: Ints, room: Ints, slack: Ints | int) -> Ints:
    """Local maxima of usage - room among the times where it is over -slack."""
    over = usage - room
    if not len(over):
        return np.zeros(0, dtype=np.int64)
    left = np.concatenate([[True], over[1:] >= over[:-1]])
    right = np.concatenate([over[:-1] > over[1:], [True]])
    return np.flatnonzero(left & right & (over > -slack))
