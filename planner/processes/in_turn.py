"""Programs of a run of many processes on CPU, each waited for before the next is started.

XLA's CPU client has a pool of as many threads as the process has devices (or cores, if those are more). There it runs a
program of several devices, one thread a device, and there it starts programs; a start waits while 32 programs of its
device are under way (`max_inflight_computations`). When a process is that far ahead of another, starts sit on threads
that an older program wants: one of its devices never runs, what it should send never comes, and all processes wait for
ever (jaxlib 0.10.2, 0.11.2: 500 sums over two processes of four devices, not waited for, hung three times of three).
`jax_cpu_enable_async_dispatch` is of no help, it concerns programs of one device. With one program under way each of
its devices has a thread; and as every process starts programs in the same order, the oldest that is not done has been
started wherever it runs.

In: jitted functions. Out: the same, or ones that wait.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from planner.processes.standstill import JOINED

TRANSFER = "a transfer"
"""What programs do that move arrays only, in words."""


def in_turn(program: Callable[..., Any], mesh: Mesh, what: str = TRANSFER) -> Any:
    """A jitted function that returns once its results are there, if it is one that must not run ahead; else itself.

    Args:
      program: arrays -> arrays, as `jax.jit` gives it.
      mesh: where it runs.
      what: it does, or its name, for who asks what this process waits for.
    """
    return InTurn(program, what) if must_wait(mesh) else program


def copied(array: jax.Array) -> jax.Array:
    """A copy, made as such a program."""
    assert isinstance(array.sharding, NamedSharding)
    mesh = array.sharding.mesh
    return jax.block_until_ready(array.copy()) if isinstance(mesh, Mesh) and must_wait(mesh) else array.copy()


def must_wait(mesh: Mesh) -> bool:
    """Whether programs of these devices are to be waited for."""
    return jax.process_count() > 1 and mesh.devices.flat[0].platform == "cpu"


class InTurn:
    """A jitted function whose results are waited for. `lower` as that of the function.

    The call itself counts as waiting too, for a program of one device may run in it; but not the first, which compiles.
    """

    def __init__(self, program: Any, what: str) -> None:
        self._program, self._what, self.lower = program, what, program.lower
        self._compiled = False

    def __call__(self, *arrays: Any) -> Any:
        made = None
        if not self._compiled:
            made, self._compiled = self._program(*arrays), True
        progress = JOINED.get()
        with contextlib.nullcontext() if progress is None else progress.waiting(self._what):
            return jax.block_until_ready(self._program(*arrays) if made is None else made)
