"""Checkpoints of runs of many processes: what orbax cannot see, and what only one of them may do.

Orbax writes arrays that every process has a part of. A stage that lives in some processes only has others; they are
spread over all devices to be saved, as evenly as their shape allows, and sent home after they are read. Looking for the
newest checkpoint, setting damaged ones aside and removing unfinished ones is for process 0; the others follow.

In: a `RunState` and a folder that all processes share. Out: named arrays for orbax, and back; a `Survey`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from planner.checkpoint.folder import Survey, Whole, said_by, survey
from planner.errors import CheckpointError
from planner.runtime.host_transfers import moved
from planner.runtime.stage_program import mesh_of
from planner.runtime.transfer import Transfers


class Spread:
    """Named arrays of a run as orbax takes them; nothing to do in a run of one process."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        devices = sorted({d for x in arrays.values() for d in x.sharding.device_set},
                         key=lambda d: (d.process_index, d.id))
        self._mesh = Mesh(np.array(devices), ("device",))
        self._transfers = Transfers([self._mesh])
        self._processes = {d.process_index for d in devices}

    def out(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Arrays, or shapes with shardings, with parts in every process."""
        return {name: self._spread(x) if self._is_apart(x) else x for name, x in arrays.items()}

    def home(self, arrays: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Arrays that lie as `out(wanted)` says, as `wanted` says."""
        return {name: self._gathered(arrays[name], x.sharding) if self._is_apart(x) else arrays[name]
                for name, x in wanted.items()}

    def _is_apart(self, array: Any) -> bool:
        return {d.process_index for d in array.sharding.device_set} != self._processes

    def _spread(self, array: Any) -> Any:
        where = self._everywhere(array.shape)
        if isinstance(array, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=where)
        lies = _on_devices(array.sharding)
        return self._transfers.send([moved(array, lies)], [lies], [where])[0]

    def _gathered(self, array: Any, wanted: NamedSharding) -> Any:
        there = self._transfers.send([array], [self._everywhere(array.shape)], [_on_devices(wanted)])[0]
        return moved(there, wanted)

    def _everywhere(self, shape: tuple[int, ...]) -> NamedSharding:
        whole = next((d for d, size in enumerate(shape) if size % self._mesh.size == 0 and size), None)
        spec = PartitionSpec() if whole is None else PartitionSpec(*(None,) * whole, "device")
        return NamedSharding(self._mesh, spec)


def _on_devices(lies: NamedSharding) -> NamedSharding:
    """The same sharding in the devices' own memory, from which arrays travel."""
    return NamedSharding(mesh_of(lies), lies.spec)


def shared_survey(folder: Path) -> Survey:
    """`survey` by process 0, for all: they load the same checkpoint.

    Raises:
      CheckpointError: a process does not see the folder that process 0 sees.
    """
    if jax.process_count() == 1:
        return survey(folder)
    found = survey(folder) if jax.process_index() == 0 else None
    newest = None if found is None else found.newest
    told = np.array([-1 if newest is None else newest.count, 0 if found is None else len(found.damaged)], np.int32)
    count, damaged = (int(x) for x in multihost_utils.broadcast_one_to_all(told))
    if found is not None:
        return found
    there = Path(folder) / str(count)
    about = said_by(there) if count >= 0 else None
    if isinstance(about, str):
        raise CheckpointError(f"process {jax.process_index()} cannot read {there}, which process 0 has found: {about}",
                              "give a folder that all processes share")
    return Survey(None if about is None else Whole(there, count, about), (), (there,) * damaged)


def by_process_0(work: Callable[[], None]) -> None:
    """Work that process 0 does while the others wait."""
    if jax.process_index() == 0:
        work()
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("planner checkpoints")
