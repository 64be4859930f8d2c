"""What the emitter makes operators execute beside JAX's own primitives. Each has `bind`, as `interpret.Bound` has.

They are data, which a plan's memory is read off too, without JAX: what executes them (`binding.py`) is imported when
one is bound.

In: arrays or tracers. Out: a list of results.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax.sharding import Mesh


@dataclass(frozen=True, slots=True)
class Barrier:
    """Its operands, which the compiler may not see through: what is computed again from them is not merged with the
    first time."""

    def bind(self, operands: Sequence[Any]) -> list[Any]:
        """One result per operand."""
        from planner.emit import binding

        return binding.barrier(operands)


@dataclass(frozen=True, slots=True)
class Copy:
    """Its operand, as an array of that shape: gives an output that is an input or a literal a producer of its own."""

    shape: tuple[int, ...]

    def bind(self, operands: Sequence[Any]) -> list[Any]:
        """One result."""
        from planner.emit import binding

        return binding.copy(self, operands)


@dataclass(frozen=True, slots=True)
class InMemory:
    """Its operand in another memory (`core.plan.DEVICE` or `HOST`) of the same devices, sharded as it is."""

    memory: str

    def bind(self, operands: Sequence[Any]) -> list[Any]:
        """One result."""
        from planner.emit import binding

        return binding.in_memory(self, operands)


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
        from planner.emit import binding

        return binding.mapped(self, operands)


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

    def on(self, mesh: "Mesh") -> "LocalOn":
        """The same on a mesh, ready to be bound."""
        return LocalOn(self, mesh)


@dataclass(frozen=True, slots=True)
class LocalOn:
    """A `Local` on its mesh."""

    local: Local
    mesh: "Mesh"

    def bind(self, operands: Sequence[Any]) -> list[Any]:
        """Results with the new leading dimensions in front, sharded over their axes."""
        from planner.emit import binding

        return binding.local_on(self, operands)


@dataclass(frozen=True, slots=True)
class FirstPart:
    """Its operand as the first of several parts, the others zero: `parts` new dimensions, in the end at `at`."""

    at: tuple[int, ...]
    parts: tuple[int, ...]

    def bind(self, operands: Sequence[Any]) -> list[Any]:
        """One result."""
        from planner.emit import binding

        return binding.first_part(self, operands)
