"""What payloads execute.

In: a payload, arrays or tracers. Out: a list of results.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

from planner.core.plan import HOST
from planner.emit.payloads import Copy, FirstPart, InMemory, LocalOn, Mapped


def barrier(operands: Sequence[Any]) -> list[Any]:
    """See `payloads.Barrier`."""
    return list(jax.lax.optimization_barrier(tuple(operands)))


def copy(payload: Copy, operands: Sequence[Any]) -> list[Any]:
    """See `payloads.Copy`."""
    value = operands[0]
    array = value if isinstance(value, jax.Array) else jax.numpy.asarray(np.asarray(value))
    return [jax.numpy.broadcast_to(array, payload.shape)]


def in_memory(payload: InMemory, operands: Sequence[Any]) -> list[Any]:
    """See `payloads.InMemory`."""
    return [jax.device_put(operands[0], jax.memory.Space.Host if payload.memory == HOST else jax.memory.Space.Device)]


def mapped(payload: Mapped, operands: Sequence[Any]) -> list[Any]:
    """See `payloads.Mapped`."""
    fn = payload.payload.bind
    for cut in reversed(payload.cuts):
        fn = _over_parts(fn, tuple(None if d is None else 0 for d in cut))
    prepared = list(operands)
    done = [0] * len(prepared)  # every cut puts one dimension in front of the others
    for cut, parts in reversed(tuple(zip(payload.cuts, payload.parts, strict=True))):
        for n, d in enumerate(cut):
            if d is not None and d >= 0:
                prepared[n] = _cut(prepared[n], d + done[n], parts)
                done[n] += 1
    return fn(prepared)


def local_on(payload: LocalOn, operands: Sequence[Any]) -> list[Any]:
    """See `payloads.LocalOn`."""
    leads, names = payload.local.axes, payload.mesh.axis_names

    def mine(*parts: Any) -> list[Any]:
        return [r[(None,) * len(leads)] for r in payload.local.payload.bind(parts)]

    def placed(x: Any, cuts: Sequence[int | None]) -> PartitionSpec:
        dims: list[Any] = [None] * jax.numpy.ndim(x)
        for d, axes in zip(cuts, leads, strict=True):
            if d is not None:
                dims[d] = tuple(names[a] for a in axes)
        return PartitionSpec(*dims)

    taken = tuple(placed(x, [cut[n] for cut in payload.local.cuts]) for n, x in enumerate(operands))
    made = PartitionSpec(*(tuple(names[a] for a in axes) for axes in leads))
    run = jax.shard_map(mine, mesh=payload.mesh, in_specs=taken, out_specs=made, check_vma=False,
                        axis_names={names[a] for axes in leads for a in axes})
    return list(run(*operands))


def first_part(payload: FirstPart, operands: Sequence[Any]) -> list[Any]:
    """See `payloads.FirstPart`."""
    x = operands[0]
    for position, n in zip(payload.at, payload.parts, strict=True):
        x = jax.numpy.expand_dims(x, position)
        shape = tuple(n if d == position else 1 for d in range(x.ndim))
        first = jax.lax.broadcasted_iota("int32", shape, position) == 0
        x = jax.numpy.where(first, x, jax.numpy.zeros((), x.dtype))
    return [x]


def _over_parts(fn: Any, in_axes: tuple[int | None, ...]) -> Any:
    over = jax.vmap(lambda *xs: fn(list(xs)), in_axes=in_axes)
    return lambda xs: over(*xs)


def _cut(x: Any, dim: int, parts: int) -> Any:
    shape = (*x.shape[:dim], parts, x.shape[dim] // parts, *x.shape[dim + 1:])
    return jax.numpy.moveaxis(x.reshape(shape), dim, 0)
