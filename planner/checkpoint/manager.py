"""Orbax as checkpoints need it: asynchronous, atomic, the newest few kept, and every checkpoint sealed.

In: a folder, named arrays. Out: an `orbax.checkpoint.CheckpointManager`, which writes a step into a temporary folder
and renames that when it is whole. The only module that imports orbax, which is an optional dependency.
"""

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from planner.checkpoint.seal import seal

ARRAYS, ABOUT = "state", "about"
"""The folders of a checkpoint: its arrays; what it says of itself."""


class SealedHandler(ocp.StandardCheckpointHandler):
    """Orbax's handler of pytrees, which seals the arrays' folder just before it is renamed to its final name."""

    def finalize(self, directory: Any) -> None:
        """Called by orbax once all is written, in its background thread."""
        super().finalize(directory)
        seal(Path(directory))


def open_manager(folder: Path, keep: int) -> ocp.CheckpointManager:
    """A manager that saves into a folder, which is made.

    What was left half-written there must be gone: orbax can remove that too, but fails where a thread of a save that
    failed still writes into it (orbax-checkpoint 0.12.8).
    """
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    handler = SealedHandler()
    registry.add(ARRAYS, ocp.args.StandardSave, handler)
    registry.add(ARRAYS, ocp.args.StandardRestore, handler)
    options = ocp.CheckpointManagerOptions(
        preservation_policy=ocp.checkpoint_managers.LatestN(keep),
        lightweight_initialize=True)  # else it reads files of each step, and fails on a damaged one
    return ocp.CheckpointManager(folder.absolute(), options=options, handler_registry=registry)


def start_save(manager: ocp.CheckpointManager, count: int, arrays: dict[str, Any], about: dict[str, Any]) -> None:
    """Copy arrays to the host and write them in the background; waits for the save before."""
    manager.save(count, force=True, args=ocp.args.Composite(
        **{ARRAYS: ocp.args.StandardSave(arrays), ABOUT: ocp.args.JsonSave(about)}))


def read_arrays(checkpoint: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """The arrays of a checkpoint, each device reading what its sharding wants of them.

    Args:
      checkpoint: its folder.
      wanted: name -> `jax.ShapeDtypeStruct` with a sharding.
    """
    with ocp.StandardCheckpointer() as reader:
        return reader.restore((checkpoint / ARRAYS).absolute(), wanted)
