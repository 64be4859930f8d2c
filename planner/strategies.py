"""Sharding strategies: every way to lay mesh axes on dimension classes, as one integer array.

In: how far each class can be sharded, the mesh shape, what each axis may be used for. Out: `Strategies`, a table with
one row per strategy and one column per mesh axis that holds the class the axis shards (-1: none).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache
from itertools import product
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from planner.core.spec import Spec


class AxisUse(StrEnum):
    """What a mesh axis may shard.

    ANY: whatever is cheapest. BATCH: only batch dimensions, parameters replicated (data parallel). ZERO_1: as BATCH,
    with optimizer state sharded and gradients combined at the end of the batch; ZERO_2: as ZERO_1, with the sums of
    gradients sharded as well. FSDP: only batch dimensions of activations, and parameters at rest (ZeRO-3). TENSOR:
    anything but batch dimensions. NONE: nothing.
    """

    ANY = "any"
    BATCH = "batch"
    ZERO_1 = "zero-1"
    ZERO_2 = "zero-2"
    FSDP = "fsdp"
    TENSOR = "tensor"
    NONE = "none"


DATA = frozenset({AxisUse.BATCH, AxisUse.ZERO_1, AxisUse.ZERO_2, AxisUse.FSDP})
"""Uses that shard the batch dimensions of activations and nothing else of them."""


def axes_in(mask: int) -> tuple[int, ...]:
    """The mesh axes of a bit mask (`Strategies.axes_on`), ascending."""
    return tuple(a for a in range(mask.bit_length()) if mask >> a & 1)


@dataclass(frozen=True)
class Strategies:
    """One row per strategy, one column per mesh axis: the class that the axis shards, or -1."""

    table: NDArray[np.int64]
    mesh_shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def _rows(self) -> tuple[tuple[int, ...], ...]:
        return tuple(map(tuple, self.table.tolist()))

    @cached_property
    def _per_class(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Per class and strategy: the shards it is cut into, and the mesh axes on it as a bit mask."""
        classes = int(self.table.max(initial=-1)) + 1
        count = np.ones((classes + 1, len(self.table)))
        mask = np.zeros((classes + 1, len(self.table)), dtype=np.int64)
        rows = np.arange(len(self.table))
        for axis, size in enumerate(self.mesh_shape):
            count[self.table[:, axis], rows] *= size
            mask[self.table[:, axis], rows] |= 1 << axis
        return count[:-1], mask[:-1]  # the last row gathered the axes that shard nothing

    def shards(self, classes: Iterable[int]) -> NDArray[np.float64]:
        """Per strategy, into how many parts the given classes together are cut (not to be written to)."""
        table, wanted = self._per_class[0], frozenset(classes)
        if wanted not in self._shards:
            total = np.ones(len(self.table))
            for c in sorted(wanted):
                if c < len(table):
                    total = total * table[c]
            self._shards[wanted] = total
        return self._shards[wanted]

    @cached_property
    def _shards(self) -> dict[frozenset[int], NDArray[np.float64]]:
        """What `shards` was asked: many tensors of a group have the same classes."""
        return {}

    def axes_on(self, classes: Iterable[int]) -> NDArray[np.int64]:
        """Per strategy, the mesh axes on the given classes, as a bit mask."""
        table = self._per_class[1]
        mask = np.zeros(len(self.table), dtype=np.int64)
        for c in set(classes):
            if c < len(table):
                mask = mask | table[c]
        return mask

    def spec(self, row: int, dims: Sequence[int | None]) -> Spec:
        """The spec under strategy `row` of a tensor whose dimensions are of the given classes (None: unsharded)."""
        return _spec(self._rows[row], dims)

    def specs(self, dims: Sequence[int | None]) -> tuple[tuple[Spec, ...], NDArray[np.int64]]:
        """Distinct specs of such a tensor over all strategies, and per strategy the index of its spec."""
        wanted = tuple(dims)
        if wanted not in self._specs:
            self._specs[wanted] = _distinct_specs(self._rows, wanted)
        return self._specs[wanted]

    @cached_property
    def _specs(self) -> dict[tuple[int | None, ...], tuple[tuple[Spec, ...], NDArray[np.int64]]]:
        """What `specs` was asked."""
        return {}


def _spec(row: tuple[int, ...], dims: Sequence[int | None]) -> Spec:
    return tuple(tuple(a for a, on in enumerate(row) if on == c) if c is not None else () for c in dims)


@lru_cache(maxsize=1 << 16)
def _distinct_specs(rows: tuple[tuple[int, ...], ...], dims: tuple[int | None, ...]
                    ) -> tuple[tuple[Spec, ...], NDArray[np.int64]]:
    """See `Strategies.specs`. Meshes of one shape ask the same of the same layers, hence the cache."""
    found: dict[Spec, int] = {}
    index = np.array([found.setdefault(_spec(row, dims), len(found)) for row in rows], dtype=np.int64)
    index.flags.writeable = False
    return tuple(found), index


def enumerate_strategies(sizes: Sequence[int], mesh_shape: tuple[int, ...], allowed: Sequence[Sequence[int]],
                         forced: Mapping[int, Collection[int]] = MappingProxyType({})) -> Strategies:
    """Every legal assignment of mesh axes to classes.

    Args:
      sizes: per class, the number that its shard count must divide.
      mesh_shape: sizes of the mesh axes.
      allowed: per mesh axis, the classes it may shard. Every axis may also shard nothing.
      forced: mesh axis -> classes of which it must shard one wherever that is legal, else any.
    """
    options = [[-1, *(c for c in allowed[a] if sizes[c] % n == 0 and sizes[c] >= n)] for a, n in enumerate(mesh_shape)]
    rows: list[tuple[int, ...]] = []
    for row in product(*options):
        count: dict[int, int] = {}
        for a, c in enumerate(row):
            if c >= 0:
                count[c] = count.get(c, 1) * mesh_shape[a]
        if all(sizes[c] % n == 0 for c, n in count.items()):
            rows.append(row)
    for a, among in forced.items():
        rows = [row for row in rows if row[a] in among] or [row for row in rows if row[a] >= 0] or rows
    return Strategies(np.array(rows, dtype=np.int64).reshape(len(rows), len(mesh_shape)), mesh_shape)


def forced_axes(uses: Sequence[AxisUse], *, contraction: bool, weights: Collection[int]) -> dict[int, Collection[int]]:
    """Mesh axes that a recipe says are used wherever possible: data axes by every operator, tensor axes by
    contractions, on a class of the weight where there is one."""
    data = {a: () for a, use in enumerate(uses) if use in DATA}
    return data | {a: weights for a, use in enumerate(uses) if use is AxisUse.TENSOR and contraction}


def allowed_classes(classes: Sequence[int], batch: frozenset[int], uses: Sequence[AxisUse]) -> list[list[int]]:
    """Per mesh axis, the classes of activations it may shard, given which of them carry the batch."""
    found: list[list[int]] = []
    for use in uses:
        if use is AxisUse.NONE:
            found.append([])
        elif use in DATA:
            found.append([c for c in classes if c in batch])
        elif use is AxisUse.TENSOR:
            found.append([c for c in classes if c not in batch])
        else:
            found.append(list(classes))
    return found
