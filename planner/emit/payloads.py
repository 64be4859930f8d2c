"""What the emitter makes operators execute beside JAX's own primitives. Each has `bind`, as `interpret.Bound` has.

In: arrays or tracers. Out: a list of results.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from planner.core.plan import HOST


@dataclass(frozen=True, slots=True)
class Barrier:
    """Its operands, which the compiler may not see through: what is computed again from them is not merged with the
    first time."""

    def bind(self, operands: Sequence[Any]) -> list[Any]:
        """One result per operand."""
        return list(jax.lax.optimization_barrier(tuple(operands)))


@dataclass(frozen=True, slots=True)
class Copy:
    """Its operand, as an array of that shape: gives an output that is an input or a literal a producer of its own."""

    shape: tuple[int, ...]

    def bind(self, operands: Sequence[Any]) -> list[Any]:
        """One result."""
        value = operands[0]
        array = value if isinstance(value, jax.Array) else jax.numpy.asarray(np.asarray(value))
        return [jax.numpy.broadcast_to(array, self.shape)]


@dataclass(frozen=True, slots=True)
class InMemory:
    """Its operand in another memory (`core.plan.DEVICE` or `HOST`) of the same devices, sharded as it is."""

    memory: str

    def bind(self, operands: Sequence[Any]) -> list[Any]:
        """One result."""
        return [jax.device_put(operands[0], jax.memory.Space.Host if self.memory == HOST else jax.memory.Space.Device)]


@dataclass(frozen=True, slots=True)
class Mapped:
    """An operator run on every part of some operands.

    Attributes:
      payload: what the operator executes.
      cuts: for each new leading dimension (outermost first), per operand the dimension to cut into that many parts, or
        None where the operand is used whole. A cut of dimension -1 means that dimension 0 of the operand already is the
        parts.
      parts: size of each new leading dimension.
    """

    payload: Any
    cuts: tuple[tuple[int | None, ...], ...]
    parts: tuple[int, ...]

    def bind(self, operands: Sequence[Any]) -> list[Any]:
        """Results with the new leading dimensions in front."""
        fn = self.payload.bind
        for cut in reversed(self.cuts):
            fn = _over_parts(fn, tuple(None if d is None else 0 for d in cut))
        prepared = list(operands)
        done = [0] * len(prepared)  # every cut puts one dimension in front of the others
        for cut, parts in reversed(tuple(zip(self.cuts, self.parts, strict=True))):
            for n, d in enumerate(cut):
                if d is not None and d >= 0:
                    prepared[n] = _cut(prepared[n], d + done[n], parts)
                    done[n] += 1
        return fn(prepared)


@dataclass(frozen=True, slots=True)
class Local:
    """An operator that every device runs on its own part of some operands, where GSPMD would fetch the others' parts.

    Attributes:
      payload: what the operator executes.
      cuts: for each new leading dimension (outermost first), per operand the dimension that is cut, or None where the
        operand is used whole.
      axes: for each new leading dimension, the mesh axes that it is sharded over, one part per shard.
    """

    payload: Any
    cuts: tuple[tuple[int | None, ...], ...]
    axes: tuple[tuple[int, ...], ...]

    def on(self, mesh: Mesh) -> "LocalOn":
        """The same on a mesh, ready to be bound."""
        return LocalOn(self, mesh)


@dataclass(frozen=True, slots=True)
class LocalOn:
    """A `Local` on its mesh."""

    local: Local
    mesh: Mesh

    def bind(self, operands: Sequence[Any]) -> list[Any]:
        """Results with the new leading dimensions in front, sharded over their axes."""
        leads, names = self.local.axes, self.mesh.axis_names

        def mine(*parts: Any) -> list[Any]:
            return [r[(None,) * len(leads)] for r in self.local.payload.bind(parts)]

        def placed(x: Any, cuts: Sequence[int | None]) -> PartitionSpec:
            dims: list[Any] = [None] * jax.numpy.ndim(x)
            for d, axes in zip(cuts, leads, strict=True):
                if d is not None:
                    dims[d] = tuple(names[a] for a in axes)
            return PartitionSpec(*dims)

        taken = tuple(placed(x, [cut[n] for cut in self.local.cuts]) for n, x in enumerate(operands))
        made = PartitionSpec(*(tuple(names[a] for a in axes) for axes in leads))
        run = jax.shard_map(mine, mesh=self.mesh, in_specs=taken, out_specs=made, check_vma=False,
                            axis_names={names[a] for axes in leads for a in axes})
        return list(run(*operands))


@dataclass(frozen=True, slots=True)
class FirstPart:
    """Its operand as the first of several parts, the others zero: `parts` new dimensions, in the end at `at`."""

    at: tuple[int, ...]
    parts: tuple[int, ...]

    def bind(self, operands: Sequence[Any]) -> list[Any]:
        """One result."""
        x = operands[0]
        for position, n in zip(self.at, self.parts, strict=True):
            x = jax.numpy.expand_dims(x, position)
            shape = tuple(n if d == position else 1 for d in range(x.ndim))
            first = jax.lax.broadcasted_iota("int32", shape, position) == 0
            x = jax.numpy.where(first, x, jax.numpy.zeros((), x.dtype))
        return [x]


def _over_parts(fn: Any, in_axes: tuple[int | None, ...]) -> Any:
    mapped = jax.vmap(lambda *xs: fn(list(xs)), in_axes=in_axes)
    return lambda xs: mapped(*xs)


def _cut(x: Any, dim: int, parts: int) -> Any:
    shape = (*x.shape[:dim], parts, x.shape[dim] // parts, *x.shape[dim + 1:])
    return jax.numpy.moveaxis(x.reshape(shape), dim, 0)
