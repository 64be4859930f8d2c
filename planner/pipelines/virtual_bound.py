"""A bound below all pipelines of a shape, several stages per rank: all their work spread over all ranks, memory priced.

At a moment at which a rank holds most, it holds what its stages keep for good and n_k times what stage k saves of a
microbatch. With every byte at a price λ, no stages are cheaper than the cheapest at that price, and what the capacity
is worth at it may be taken off:

    R · T  >=  min over slicings of  Σ_k priced_k(λ)  -  R · λ · capacity

for every λ; the largest counts. Sources: Lagrangian duality, as in `slice_costs.py` for one stage.

In: slice tables of one submesh, a shape. Out: seconds of a step.
"""

import numpy as np
from numpy.typing import NDArray

from planner.intraop.compose import SliceTable
from planner.pipelines.deep import cell_ends
from planner.pipelines.pipeline import held_moments
from planner.pipelines.slicings import each_time, slicings
from planner.pipelines.virtual_stages import Ground, Shape


def floor_s(ground: Ground, shape: Shape) -> float:
    """The bound; infinite if no slicing is possible."""
    microbatches, capacity = ground.prepared.program.microbatches, ground.hardware.device.usable_bytes
    tables = [ground.tables[mesh] for mesh in ground.space.meshes]
    if not all(t.exact for t in tables):
        return 0.0
    counts = _counts(shape, microbatches)
    ends = cell_ends(len(ground.allowed), ground.every)
    may, best = ground.allowed[ends[0][:, None], ends[1]], 0.0
    for price in sorted({p for t in tables for p in t.variants.per_byte_s}):
        at = {n: np.min([_priced(t, price, n) for t in tables], axis=0) for n in set(counts)}
        cells = {n: np.where(may, ground.prepared.slices.spread(own, *ends), np.inf) for n, own in at.items()}
        seconds = np.stack([cells[n] for n in reversed(counts)])[:, None]
        found = slicings(each_time(seconds), np.array([1]), shape.stages).least_sum(np.inf, shape.stages)
        if found is None:
            return float("inf")
        best = max(best, found[0] / shape.ranks - price * capacity)
    return best


def _counts(shape: Shape, microbatches: int) -> tuple[int, ...]:
    """Per stage, microbatches in flight at the moment at which its rank holds most of them."""
    found = [0] * shape.stages
    for rank, moments in enumerate(held_moments(shape.schedule, shape.layout, microbatches)):
        most = max(moments, key=lambda m: sum(m.in_flight))
        for stage, count in zip(shape.layout.stages_of(rank), most.in_flight, strict=True):
            found[stage] = count
    return tuple(found)


def _priced(table: SliceTable, price: float, count: int) -> NDArray[np.float64]:
    """A bound of seconds of a step and held bytes at that price, with so many in flight, per distinct slice: from the
    variants that were solved at no higher a price and with no more in flight."""
    variants = table.variants
    below = table.bound([g for g in variants.bounding(count) if variants.per_byte_s[g] <= price])
    return np.max(below, axis=1) if below.size else np.zeros(len(table.slices))
