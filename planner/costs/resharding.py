"""Time to take a tensor from one sharding to another.

The steps depend on the two specs and the mesh shape alone (`reshard_recipe.py`), so they are found once and then priced
for any tensor as the least of `fixed + per_byte * bytes`.

In: shapes, specs, `LogicalMesh`. Out: seconds, or the steps for an explanation. Bytes as counted in `collectives.py`.
Source: the alpha-beta model of `collectives.py` over the steps of GSPMD (arXiv:2105.04663).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np
from numpy.typing import NDArray

from planner.core.graph import Value
from planner.core.hardware import LogicalMesh
from planner.core.spec import Spec
from planner.costs.collectives import collective
from planner.costs.curve import Curve
from planner.costs.memory import itemsize
from planner.costs.reshard_recipe import Move, recipe

NONE_PENDING: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Step:
    """One communication of a resharding.

    Attributes:
      kind: as in `collectives.KINDS`.
      axes: mesh axes it runs over.
      bytes: as they travel, of the tensor unsharded along `axes` (of a permute: of the local buffer).
      time_s: predicted seconds.
    """

    kind: str
    axes: tuple[int, ...]
    bytes: int
    time_s: float


def reshard_s(shape: tuple[int, ...], item: int, src: Spec, dst: Spec, mesh: LogicalMesh, *,
              partial: frozenset[int] = NONE_PENDING) -> float:
    """Seconds to take a tensor from `src` to `dst`; 0 exactly if nothing has to move between devices.

    Args:
      shape: of the whole tensor.
      item: bytes per element, in memory.
      src: its spec now; must not use an axis of `partial`.
      dst: the spec wanted.
      mesh: where it lies.
      partial: mesh axes along which every device holds a partial value that is still to be combined.

    Raises:
      ValueError: if ranks differ or `src` uses an axis of `partial`.
    """
    return reshard_cost(src, dst, mesh, partial).at(prod(shape) * mesh.carried(item))


def reshard_steps(shape: tuple[int, ...], item: int, src: Spec, dst: Spec, mesh: LogicalMesh, *,
                  partial: frozenset[int] = NONE_PENDING) -> tuple[Step, ...]:
    """The communications that `reshard_s` sums, in order. Arguments and errors as there."""
    total = prod(shape) * mesh.carried(item)
    return tuple(Step(kind, axes, total // divisor, collective(kind, axes, mesh).at(total / divisor))
                 for kind, axes, divisor in _moves(src, dst, partial, mesh))


def reshard_table(shape: tuple[int, ...], item: int, srcs: Sequence[Spec], dsts: Sequence[Spec], mesh: LogicalMesh,
                  *, partials: Sequence[frozenset[int]] | None = None) -> NDArray[np.float64]:
    """`reshard_s` for every pair: seconds, of shape `(len(srcs), len(dsts))`. `partials` goes with `srcs`."""
    pending = (NONE_PENDING,) * len(srcs) if partials is None else tuple(partials)
    fixed, per_byte = _coefficients(tuple(srcs), pending, tuple(dsts), mesh)
    moved = prod(shape) * mesh.carried(item)
    return fixed[0] + per_byte[0] * moved if len(fixed) == 1 else np.min(fixed + per_byte * moved, axis=0)


def moved_bytes(value: Value, mesh: LogicalMesh) -> int:
    """Bytes of a whole tensor, as they travel."""
    return prod(value.shape) * mesh.carried(itemsize(value.dtype))


@lru_cache(maxsize=1 << 18)
def reshard_cost(src: Spec, dst: Spec, mesh: LogicalMesh, pending: frozenset[int] = NONE_PENDING) -> Curve:
    """The time of a resharding as a function of the bytes of the whole tensor; `pending`: `reshard_s`'s `partial`."""
    return _cost(_moves(src, dst, pending, mesh), mesh)


@lru_cache(maxsize=1 << 20)
def _cost(moves: tuple[Move, ...], mesh: LogicalMesh) -> Curve:
    total = Curve()
    for kind, axes, divisor in moves:
        total += collective(kind, axes, mesh).of_share(1 / divisor)
    return total


def _moves(src: Spec, dst: Spec, pending: frozenset[int], mesh: LogicalMesh) -> tuple[Move, ...]:
    return recipe(src, dst, pending, mesh.shape, reduce_scatter_as_all_reduce=mesh.reduce_scatter_as_all_reduce)


@lru_cache(maxsize=1 << 14)
def _coefficients(srcs: tuple[Spec, ...], partials: tuple[frozenset[int], ...], dsts: tuple[Spec, ...],
                  mesh: LogicalMesh) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fixed seconds and seconds per byte, [lines, srcs, dsts]. Most pairs move alike."""
    ways = _ways(mesh.shape, mesh.reduce_scatter_as_all_reduce)
    seen, which = np.unique(ways.between(srcs, partials, dsts).ravel(), return_inverse=True)
    distinct: list[int] = seen.tolist()
    lines = [_cost(ways.moves[n], mesh).lines for n in distinct]
    most = max(map(len, lines), default=1)
    table = np.array([[*few, *few[-1:] * (most - len(few))] for few in lines]).reshape(len(lines), most, 2)
    fixed, per_byte = np.ascontiguousarray(table.T)[..., which.reshape(len(srcs), len(dsts))]
    return fixed, per_byte


@lru_cache(maxsize=1 << 10)
def _ways(mesh_shape: tuple[int, ...], reduce_scatter_as_all_reduce: bool) -> "_Ways":  # noqa: FBT001  a key
    return _Ways(mesh_shape, reduce_scatter_as_all_reduce=reduce_scatter_as_all_reduce)


class _Ways:
    """What moves between shardings on meshes of one shape, found when it is first asked for: `moves` are the distinct
    ones. Layers of different sizes ask for many of the same pairs."""

    def __init__(self, mesh_shape: tuple[int, ...], *, reduce_scatter_as_all_reduce: bool) -> None:
        self.moves: list[tuple[Move, ...]] = []
        self._shape, self._as_all_reduce = mesh_shape, reduce_scatter_as_all_reduce
        self._number: dict[tuple[Move, ...], int] = {}
        self._rows: dict[tuple[Spec, frozenset[int]], int] = {}
        self._columns: dict[Spec, int] = {}
        self._which = np.full((64, 64), -1, dtype=np.int64)

    def between(self, srcs: Sequence[Spec], partials: Sequence[frozenset[int]], dsts: Sequence[Spec]
                ) -> NDArray[np.int64]:
        """Indices in `moves`, [srcs, dsts]."""
        starts = list(zip(srcs, partials, strict=True))
        at = np.ix_([self._rows.setdefault(s, len(self._rows)) for s in starts],
                    [self._columns.setdefault(d, len(self._columns)) for d in dsts])
        while len(self._rows) > len(self._which) or len(self._columns) > self._which.shape[1]:
            self._which = np.pad(self._which, ((0, len(self._which)), (0, self._which.shape[1])), constant_values=-1)
        unknown: list[list[int]] = np.argwhere(self._which[at] < 0).tolist()
        for i, j in unknown:
            moves = recipe(srcs[i], dsts[j], partials[i], self._shape,
                           reduce_scatter_as_all_reduce=self._as_all_reduce)
            number = self._number.setdefault(moves, len(self._number))
            if number == len(self.moves):
                self.moves.append(moves)
            self._which[self._rows[starts[i]], self._columns[dsts[j]]] = number
        return self._which[at]
