"""Choices of a parameter: how it is stored, how its gradient and optimizer state are sharded, when they are combined.

Storage and update shardings are independent up to one rule: an axis that shards the stored parameter shards the update
on the same dimension. Pure data parallelism (nothing sharded), ZeRO-1/2 (update sharded), FSDP / ZeRO-3 (both sharded)
and tensor parallelism (both sharded on the dimension the operator splits) are rows of this one table.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from planner.core.graph import Graph
from planner.core.hardware import Device, LogicalMesh
from planner.core.spec import Spec, shard_count
from planner.costs.memory import itemsize, value_bytes
from planner.costs.resharding import reshard_table
from planner.intraop.choices import Param
from planner.intraop.dims import Classes
from planner.strategies import AxisUse, Strategies

SHARDING = frozenset({AxisUse.ZERO_1, AxisUse.ZERO_2, AxisUse.FSDP})
"""Uses that shard parameters or their updates wherever they divide."""

Row = tuple[tuple[int, int], ...]
"""Per mesh axis, the class it shards of the stored parameter and of its update (-1: none)."""


@dataclass(frozen=True)
class ParamChoices:
    """One entry per choice: rows of `stored` and `update`, and whether the gradient waits for the end of the batch."""

    stored: Strategies
    update: Strategies
    deferred: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.deferred)

    def stored_specs(self, classes: Classes, owner: int, rank: int) -> tuple[tuple[Spec, ...], NDArray[np.int64]]:
        """Distinct storage specs of a value of the parameter's chain, and the index per choice."""
        return self.stored.specs(classes.dims(owner, rank))

    def update_specs(self, classes: Classes, owner: int, rank: int) -> tuple[tuple[Spec, ...], NDArray[np.int64]]:
        """The same for the update sharding."""
        return self.update.specs(classes.dims(owner, rank))

    def only(self, pick: int, *, deferred: bool) -> "ParamChoices":
        """One choice alone, with the gradient combined when told."""
        one = slice(pick, pick + 1)
        return ParamChoices(Strategies(self.stored.table[one], self.stored.mesh_shape),
                            Strategies(self.update.table[one], self.update.mesh_shape), np.array([deferred]))


def param_choices(param: Param, uses: tuple[AxisUse, ...], mesh_shape: tuple[int, ...], *, deferrable: bool,
                  pinned: Spec | None) -> ParamChoices:
    """Every legal choice for a parameter. `pinned` fixes the storage spec of the parameter itself."""
    size = param.classes.size
    owned = {c for (v, _), c in param.classes.of.items() if v == param.value and size[c] > 1}
    options = [_axis_options(use, [c for c in sorted(owned) if size[c] % n == 0]) for use, n in
               zip(uses, mesh_shape, strict=True)]
    rank = len([1 for v, _ in param.classes.of if v == param.value])
    rows: list[Row] = []
    for row in product(*options):
        if _legal([s for s, _ in row], size, mesh_shape) and _legal([u for _, u in row], size, mesh_shape):
            rows.append(row)
    if SHARDING & set(uses):
        rows = _most_sharded(rows, uses)
    dims = param.classes.dims(param.value, rank)
    if pinned is not None:
        rows = [r for r in rows if _row_spec(r, dims) == tuple(tuple(sorted(a)) for a in pinned)] or \
            [tuple((c, c) for c in (_pin_class(pinned, dims, a) for a in range(len(mesh_shape))))]
    flags = (False, True) if deferrable else (False,)
    if deferrable and (AxisUse.ZERO_1 in uses or AxisUse.ZERO_2 in uses):
        flags = (AxisUse.ZERO_2 not in uses,)
    table = np.array([[[s, u] for s, u in row] for row in rows for _ in flags], dtype=np.int64)
    table = table.reshape(len(rows) * len(flags), len(mesh_shape), 2)
    return ParamChoices(Strategies(table[:, :, 0], mesh_shape), Strategies(table[:, :, 1], mesh_shape),
                        np.array([f for _ in rows for f in flags], dtype=bool))


def _axis_options(use: AxisUse, classes: list[int]) -> list[tuple[int, int]]:
    """(class stored, class updated) that one mesh axis may shard."""
    both = [(c, c) for c in classes]
    if use in (AxisUse.NONE, AxisUse.BATCH):
        return [(-1, -1)]
    if use in (AxisUse.ZERO_1, AxisUse.ZERO_2):
        return [(-1, c) for c in classes] or [(-1, -1)]
    if use is AxisUse.FSDP:
        return both or [(-1, -1)]
    if use is AxisUse.TENSOR:
        return [(-1, -1), *both]
    return [(-1, -1), *((-1, c) for c in classes), *both]


def _most_sharded(rows: list[Row], uses: tuple[AxisUse, ...]) -> list[Row]:
    """ZeRO and FSDP shard a parameter, or its update, as far as it divides."""
    def sharded(row: Row) -> int:
        return sum(u >= 0 for (_, u), use in zip(row, uses, strict=True) if use in SHARDING)

    most = max((sharded(r) for r in rows), default=0)
    return [r for r in rows if sharded(r) == most] or [tuple((-1, -1) for _ in uses)]


def _legal(assigned: list[int], size: tuple[int, ...], mesh_shape: tuple[int, ...]) -> bool:
    count: dict[int, int] = {}
    for c, n in zip(assigned, mesh_shape, strict=True):
        if c >= 0:
            count[c] = count.get(c, 1) * n
    return all(size[c] % n == 0 for c, n in count.items())


def _row_spec(row: Row, dims: tuple[int | None, ...]) -> Spec:
    return tuple(tuple(a for a, (s, _) in enumerate(row) if c is not None and s == c) for c in dims)


def _pin_class(pinned: Spec, dims: tuple[int | None, ...], axis: int) -> int:
    for c, axes in zip(dims, pinned, strict=True):
        if axis in axes and c is not None:
            return c
    return -1


def update_bytes(value: int, state: int, device: Device) -> int:
    """Bytes that the update of a parameter moves: parameter and state read and written, the gradient (as large as the
    parameter) read. A kernel for each result reads the gradient for every part of the state (taken to be as large as
    the parameter) and, for the parameter, the state once more, instead of the gradient."""
    if device.kernel_per_result and state:
        return 2 * value + (2 + 1 + 1) * state
    return 3 * value + 2 * state


def update_kernels(value: int, state: int, device: Device) -> int:
    """Kernels of the update of a parameter; where one makes all results, it makes those of many parameters, and its own
    cost is nobody's."""
    return 1 + round(state / value) if device.kernel_per_result else 0


def param_unary(graph: Graph, param: Param, choices: ParamChoices, mesh: LogicalMesh, device: Device, *, training: bool
                ) -> dict[str, NDArray[np.float64]]:
    """Bytes held and seconds of the update per choice."""
    value = graph.values[param.value]
    rank = len(value.shape)
    stored, at = choices.stored_specs(param.classes, param.value, rank)
    cuts = np.array([shard_count(s, mesh.shape) for s in stored], dtype=float)[at]
    held = value_bytes(value) / cuts
    for e in param.exported:
        if e != param.value and graph.values[e].dtype != value.dtype:
            held = held + value_bytes(graph.values[e]) / cuts
    if not training or not param.home:
        return {"resident_bytes": held, "batch_s": np.zeros(len(choices))}
    update, uat = choices.update_specs(param.classes, param.value, rank)
    ucuts = np.array([shard_count(s, mesh.shape) for s in update], dtype=float)[uat]
    touched = update_bytes(value_bytes(value), param.opt_state_bytes, device) / ucuts
    gather = reshard_table(value.shape, itemsize(value.dtype), update, stored, mesh)[uat, at]
    return {"resident_bytes": held + param.opt_state_bytes / ucuts,
            "batch_s": touched / device.memory_bandwidth_bytes_per_s + gather
            + device.launch_s * update_kernels(value_bytes(value), param.opt_state_bytes, device)}
