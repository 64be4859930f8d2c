"""The fastest variant of every slice that fits, for many numbers of microbatches in flight at once.

More in flight need more memory, so with the variants of a slice in order of their time, each is the answer for all
numbers that it fits with and the faster ones do not: one pass for all numbers. In: a `SliceTable`. Out: seconds per
microbatch and variants, [number in flight, slice].
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from planner.intraop.compose import SliceTable
from planner.solvers.large.compiled import compiled

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


def fastest_fitting(table: SliceTable, flights: Sequence[int], capacity_bytes: float) -> tuple[Array, Ints]:
    """See the module; infinite, and the first variant, where none fits. `flights`: ascending. What is done once a step
    is spread over its microbatches."""
    useful = table.useful
    seconds = np.full((len(flights), len(table.slices)), np.inf)
    variant = np.zeros(seconds.shape, dtype=np.int64)
    _fill(useful.start, useful.variant, useful.parts, useful.working_bytes, useful.step_s(table.microbatches),
          np.array(flights), capacity_bytes, seconds, variant)
    return seconds, variant


@compiled
def _fill(  # noqa: PLR0913  (a compiled loop)
          start: Ints, which: NDArray[np.int16], parts: Array, working_bytes: Array, step: Array, flights: Ints,
          capacity_bytes: float, seconds: Array, variant: Ints) -> None:
    for n in range(len(start) - 1):
        at = 0
        for v in range(start[n], start[n + 1]):
            while at < len(flights) and parts[v, 3] + max(
                    flights[at] * parts[v, 4] + working_bytes[v], parts[v, 5]) <= capacity_bytes:
                seconds[at, n], variant[at, n] = step[v], which[v]
                at += 1
            if at == len(flights):
                break
