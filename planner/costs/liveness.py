"""When buffers live, in which order kernels run, and how much room they take side by side.

In: `Kernel`s over buffers with sizes. Out: an order, an interval per buffer, and the bytes of an allocation that holds
them all. Three orders are known: as a program is written; as soon as operands are there (breadth first), which is what
XLA does on CPU (`BFScheduler`, jax 0.10.2): there, what waits for nothing but parameters is made first of all; and as
late as readers allow, which XLA's scheduler for GPUs comes to (`LatencyHidingScheduler`, which starts from the end):
there, weight gradients are made after the whole backward pass.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

from planner.costs.memory import Live


@dataclass(frozen=True, slots=True)
class Kernel:
    """Reads and writes buffers. `over`: those it reads whose place a result of the same size may take; `waits`: it may
    run later than it is written."""

    reads: tuple[int, ...]
    writes: tuple[int, ...]
    over: tuple[int, ...] = ()
    waits: bool = False


def as_written(kernels: Sequence[Kernel]) -> tuple[int, ...]:
    """Kernels in program order."""
    return tuple(range(len(kernels)))


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


def as_needed(kernels: Sequence[Kernel]) -> tuple[int, ...]:
    """Kernels in program order, but those that can wait right before the first that reads what they write; where many
    wait for one, first all that are as many steps from it. What reads of kernels merged later on comes after them."""
    place = _behind_makers(kernels)
    nobody = (len(kernels), 0)
    first: dict[int, tuple[int, int]] = {}
    when: list[tuple[int, int]] = [(place[n], 0) for n in range(len(kernels))]
    for n in sorted(range(len(kernels)), key=place.__getitem__, reverse=True):
        kernel = kernels[n]
        readers = min((first[b] for b in kernel.writes if b in first), default=nobody)
        if kernel.waits and readers != nobody:
            when[n] = (readers[0], readers[1] - 1)
        for b in kernel.reads:
            first[b] = min(first.get(b, when[n]), when[n])
    return tuple(sorted(range(len(kernels)), key=lambda n: (*when[n], place[n])))


def _behind_makers(kernels: Sequence[Kernel]) -> list[int]:
    """Each kernel's place in the order that is nearest to program order and has all that it reads before it."""
    maker = {b: n for n, k in enumerate(kernels) for b in k.writes}
    behind: list[list[int]] = [[] for _ in kernels]
    waits = [0] * len(kernels)
    for n, kernel in enumerate(kernels):
        for m in {maker[b] for b in kernel.reads if b in maker}:
            behind[m].append(n)
            waits[n] += 1
    ready = [n for n, w in enumerate(waits) if not w]  # ascending: a heap
    place = [0] * len(kernels)
    for at in range(len(kernels)):
        n = heappop(ready)
        place[n] = at
        for r in behind[n]:
            waits[r] -= 1
            if not waits[r]:
                heappush(ready, r)
    return place


@dataclass(frozen=True, slots=True)
class Place:
    """A piece of memory during [start, end), and the buffers that use it one after another."""

    live: Live
    buffers: tuple[int, ...]


def places(kernels: Sequence[Kernel], order: Sequence[int], sizes: Mapping[int, int], kept: Set[int] = frozenset(),
           joined: Iterable[Sequence[int]] = ()) -> list[Place]:
    """A place for every buffer that a kernel writes; buffers from outside have places already and are left out.

    A buffer lives from the kernel that writes it to the last that reads it, that one included; those `kept` live to the
    end, those `joined` as long as any beside them. A result takes the place of an operand in `over` of the same size
    that is read for the last time.
    """
    last: dict[int, int] = {}
    for time, n in enumerate(order):
        for b in kernels[n].reads:
            last[b] = time
    for parts in joined:
        last |= dict.fromkeys(parts, max(last.get(b, 0) for b in parts))
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
