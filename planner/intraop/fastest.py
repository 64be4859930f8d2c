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


def fastest_fitting(table: SliceTable, flights: Sequence[int], capacity_bytes: float, microbatches: int
                    ) -> tuple[Array, Ints]:
    """See the module; infinite, and the first variant, where none fits. `flights`: ascending. What is done once a step
    is spread over its microbatches."""
    step = table.microbatch_s + table.batch_s / microbatches
    seconds = np.full((len(flights), len(step)), np.inf)
    variant = np.zeros(seconds.shape, dtype=np.int64)
    _fill(table.parts, table.working_bytes, step, np.argsort(step, axis=1, kind="stable"), np.array(flights),
          capacity_bytes, seconds, variant)
    return seconds, variant


@compiled
def _fill(  # noqa: PLR0913  (a compiled loop)
          parts: Array, working_bytes: Array, step: Array, order: Ints, flights: Ints, capacity_bytes: float,
          seconds: Array, variant: Ints) -> None:
    for n in range(step.shape[0]):
        at = 0
        for place in range(step.shape[1]):
            g = order[n, place]
            if step[n, g] == np.inf:
                break
            while at < len(flights) and parts[n, g, 3] + max(
                    flights[at] * parts[n, g, 4] + working_bytes[n, g], parts[n, g, 5]) <= capacity_bytes:
                seconds[at, n], variant[at, n] = step[n, g], g
                at += 1
            if at == len(flights):
                break
