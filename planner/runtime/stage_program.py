"""A jitted function on the devices of one stage, which may all be devices of other processes.

There it does nothing and gives arrays without numbers: `jax.Array`s of the right shape, dtype and sharding with no part
in this process. So a driver is written once and runs in every process, and every process knows what the others hold.

In: a function, a mesh. Out: a callable.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from planner.processes.in_turn import in_turn


def stage_program(function: Callable[..., Any], mesh: Mesh, name: str, *, donate: Sequence[int] = (),
                  out_shardings: Any = None) -> Any:
    """The function jitted, if this process has devices of the mesh; else a stand-in that can be lowered too.

    Args:
      function: arrays -> arrays.
      mesh: where it runs.
      name: of the program, as profilers show it (`core.programs`).
      donate: positions of arguments whose buffers it takes over.
      out_shardings: as `jax.jit` takes them.
    """
    jitted = jax.jit(named(function, name), donate_argnums=tuple(donate), out_shardings=out_shardings)
    return in_turn(jitted, mesh, name) if has_part(mesh) else _Elsewhere(function, jitted, mesh, out_shardings)


def named(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The function under another name, which its compiled program bears."""
    def run(*arrays: Any) -> Any:
        return function(*arrays)

    run.__name__ = run.__qualname__ = name
    return run


def has_part(mesh: Mesh) -> bool:
    """Whether this process has devices of a mesh."""
    here = jax.process_index()
    return any(d.process_index == here for d in mesh.devices.flat)


def mesh_of(lies: NamedSharding) -> Mesh:
    """The mesh of a sharding of arrays, which has devices."""
    assert isinstance(lies.mesh, Mesh)
    return lies.mesh


def without_numbers(shape: Sequence[int], dtype: Any, lies: NamedSharding) -> jax.Array:
    """An array that lies on devices of other processes alone."""
    return jax.make_array_from_single_device_arrays(tuple(shape), lies, [], dtype=dtype)


class _Elsewhere:
    """Stands in for a program that other processes run."""

    def __init__(self, function: Callable[..., Any], jitted: Any, mesh: Mesh, out_shardings: Any) -> None:
        self.lower = jitted.lower
        self._function, self._mesh, self._out_shardings = function, mesh, out_shardings
        self._made: Any = None

    def __call__(self, *arrays: Any) -> Any:
        if self._made is None:  # shapes are the same in every call
            made, tree = jax.tree_util.tree_flatten(jax.eval_shape(self._function, *arrays))
            whole = NamedSharding(self._mesh, PartitionSpec())
            lies = [None] * len(made) if self._out_shardings is None else \
                jax.tree_util.tree_leaves(self._out_shardings, is_leaf=lambda s: s is None)
            self._made = tree.unflatten([without_numbers(x.shape, x.dtype, s or whole)
                                         for x, s in zip(made, lies, strict=True)])
        return self._made
