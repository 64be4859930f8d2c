"""What the emitter makes operators execute beside JAX's own primitives. Each has `bind`, as `interpret.Bound` has.

In: arrays or tracers. Out: a list of results.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np


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


def _over_parts(fn: Any, in_axes: tuple[int | None, ...]) -> Any:
    mapped = jax.vmap(lambda *xs: fn(list(xs)), in_axes=in_axes)
    return lambda xs: mapped(*xs)


def _cut(x: Any, dim: int, parts: int) -> Any:
    shape = (*x.shape[:dim], parts, x.shape[dim] // parts, *x.shape[dim + 1:])
    return jax.numpy.moveaxis(x.reshape(shape), dim, 0)
