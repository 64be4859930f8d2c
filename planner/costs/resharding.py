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
    return np.min(fixed + per_byte * (prod(shape) * mesh.carried(item)), axis=0)


def moved_bytes(value: Value, mesh: LogicalMesh) -> int:
    """Bytes of a whole tensor, as they travel."""
    return prod(value.shape) * mesh.carried(itemsize(value.dtype))


@lru_cache(maxsize=1 << 20)
def reshard_cost(src: Spec, dst: Spec, mesh: LogicalMesh, partial: frozenset[int] = NONE_PENDING) -> Curve:
    """The time of a resharding as a function of the bytes of the whole tensor."""
    total = Curve()
    for kind, axes, divisor in _moves(src, dst, partial, mesh):
        total += collective(kind, axes, mesh).of_share(1 / divisor)
    return total


def _moves(src: Spec, dst: Spec, partial: frozenset[int], mesh: LogicalMesh) -> tuple[Move, ...]:
    return recipe(src, dst, partial, mesh.shape, reduce_scatter_as_all_reduce=mesh.reduce_scatter_as_all_reduce)


@lru_cache(maxsize=1 << 14)
def _coefficients(srcs: tuple[Spec, ...], partials: tuple[frozenset[int], ...], dsts: tuple[Spec, ...],
                  mesh: LogicalMesh) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fixed seconds and seconds per byte, [lines, srcs, dsts]."""
    costs = [[reshard_cost(src, dst, mesh, partial).lines for dst in dsts]
             for src, partial in zip(srcs, partials, strict=True)]
    most = max((len(lines) for row in costs for lines in row), default=1)
    table = np.array([[[*lines, *lines[-1:] * (most - len(lines))] for lines in row] for row in costs])
    table = table.reshape(len(srcs), len(dsts), most, 2)
    return np.moveaxis(table[..., 0], 2, 0), np.moveaxis(table[..., 1], 2, 0)
