"""When buffers live, in which order kernels run, and how much room they take side by side.

In: `Kernel`s over buffers with sizes. Out: an order, an interval per buffer, and the bytes of an allocation that holds
them all. Two orders are known: as a program is written, and as soon as operands are there (breadth first), which is
what XLA does on CPU (`BFScheduler`, jax 0.10.2): there, what waits for nothing but parameters is made first of all.
"""

from collections import deque
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from planner.costs.memory import Live


@dataclass(frozen=True, slots=True)
class Kernel:
    """Reads and writes buffers. `over`: those it reads whose place a result of the same size may take."""

    reads: tuple[int, ...]
    writes: tuple[int, ...]
    over: tuple[int, ...] = ()


def as_ready(kernels: Sequence[Kernel]) -> tuple[int, ...]:
    """Kernels in the order in which they become ready, first come first served."""
    readers: dict[int, list[int]] = {}
    made = {b for k in kernels for b in k.writes}
    waits = [0] * len(kernels)
    for n, kernel in enumerate(kernels):
        for b in kernel.reads:
            if b in made:
                waits[n] += 1
                readers.setdefault(b, []).append(n)
    queue = deque(n for n, w in enumerate(waits) if not w)
    order: list[int] = []
    while queue:
        n = queue.popleft()
        order.append(n)
        for b in kernels[n].writes:
            for r in readers.get(b, ()):
                waits[r] -= 1
                if not waits[r]:
                    queue.append(r)
    return tuple(order)


@dataclass(frozen=True, slots=True)
class Place:
    """A piece of memory during [start, end), and the buffers that use it one after another."""

    live: Live
    buffers: tuple[int, ...]


def places(kernels: Sequence[Kernel], order: Sequence[int], sizes: Mapping[int, int], kept: Set[int] = frozenset()
           ) -> list[Place]:
    """A place for every buffer that a kernel writes; buffers from outside have places already and are left out.

    A buffer lives from the kernel that writes it to the last that reads it, that one included; those `kept` live to the
    end. A result takes the place of an operand in `over` of the same size that is read for the last time.
    """
    last: dict[int, int] = {}
    for time, n in enumerate(order):
        for b in kernels[n].reads:
            last[b] = time
    last |= dict.fromkeys(kept, len(order))
    place_of: dict[int, int] = {}
    found: list[tuple[int, int, int, list[int]]] = []
    for time, n in enumerate(order):
        kernel = kernels[n]
        free = [b for b in kernel.over if b in place_of and last.get(b, time) == time]
        for b in kernel.writes:
            end = last.get(b, time) + 1
            old = next((o for o in free if sizes[o] == sizes[b]), None) if b not in kept else None
            if old is None:
                place_of[b] = len(found)
                found.append((time, end, sizes[b], [b]))
            else:
                free.remove(old)
                at = place_of[b] = place_of[old]
                start, _, size, users = found[at]
                found[at] = (start, end, size, [*users, b])
    return [Place(Live(start, end, size), tuple(users)) for start, end, size, users in found]


def packed(intervals: Sequence[Live]) -> int:
    """Bytes of one allocation in which all intervals find room side by side.

    The largest are placed first, each in the smallest gap that fits beside those that live at the same time, as XLA's
    buffer assignment does (`GlobalDecreasingSizeBestFitHeap`). At least the largest sum of live intervals.
    """
    found = sorted((i for i in intervals if i.bytes and i.start < i.end),
                   key=lambda i: (-i.bytes, i.start - i.end, i.start))
    start, end, size = (np.array(column, dtype=np.int64)
                        for column in ([i.start for i in found], [i.end for i in found], [i.bytes for i in found]))
    at = np.zeros(len(found), dtype=np.int64)
    for n in range(len(found)):
        beside = np.flatnonzero((start[:n] < end[n]) & (end[:n] > start[n]))
        beside = beside[np.argsort(at[beside], kind="stable")]
        tops = np.maximum.accumulate(np.concatenate([[0], at[beside] + size[beside]]))  # free from here on
        gaps = at[beside] - tops[:-1]
        fits = np.flatnonzero(gaps >= size[n])
        at[n] = tops[fits[np.argmin(gaps[fits])]] if len(fits) else tops[-1]
    return int(np.max(at + size, initial=0))
