"""`Checkpoints`: the handle that a training loop holds.

In: a folder, a plan, states as they are made. Out: checkpoints in the folder, written while training goes on; a step
and a state to go on with, placed by any plan of the same model.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from planner.checkpoint.about import About, about, to_data
from planner.checkpoint.across import Spread, by_process_0, shared_survey
from planner.checkpoint.folder import Survey, Whole, counts, remove_unfinished, set_aside, survey
from planner.checkpoint.leaves import LeafType, leaf_types, restored, stored
from planner.core import plan_io
from planner.errors import CheckpointError, SaveError
from planner.model import Model
from planner.planned import Plan, device_list
from planner.runtime.compile import build_step, compile_plan
from planner.runtime.placement import abstract_state
from planner.runtime.state import RunState

if TYPE_CHECKING:
    import jax

_FAULTS = (OSError, ValueError, RuntimeError)
"""What orbax and tensorstore raise for faults of the file system."""


@dataclass(frozen=True)
class Resumed:
    """A run to go on with.

    Attributes:
      step: the compiled step, as `Plan.compile` gives it.
      state: the state to give to it.
      done: steps done before; 0 for a new run.
      skipped: what was not loaded, and why; a sentence each.
      warnings: what differs from the run that was saved and may be meant.
    """

    step: Callable[..., Any]
    state: RunState
    done: int
    skipped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Checkpoints:
    """Checkpoints of a run in a folder; a context manager, which waits for the last save at its end.

    Args:
      folder: where they are; made at the first save. One run at a time writes into it.
      plan: the plan that the run is under from now on; saved ones may be under others.
      every: steps between checkpoints.
      keep: how many of the newest remain.
    """

    def __init__(self, folder: str | os.PathLike[str], plan: Plan, *, every: int = 1, keep: int = 3) -> None:
        if every < 1 or keep < 1:
            raise CheckpointError(f"every={every}, keep={keep} leaves no checkpoint", "give whole numbers from 1")
        self.folder, self.every, self.keep = Path(folder), every, keep
        self._plan = plan
        self._damaged: tuple[Path, ...] = ()
        self._manager: Any = None
        self._spread: Spread | None = None

    @property
    def counts(self) -> tuple[int, ...]:
        """Steps done before each checkpoint in the folder, ascending. One that is damaged is told by `resume` alone."""
        return counts(self.folder)

    def resume(self, model: Model, mesh: "jax.sharding.Mesh | Sequence[jax.Device]", *, or_start: bool = False
               ) -> Resumed:
        """Compile the plan, and load the newest whole checkpoint into the shardings that it wants.

        Args:
          model: the model that the plan is for; its parameters may be abstract where there is a checkpoint.
          mesh: the devices, as many as planned for; other than those of the checkpoint, if need be.
          or_start: where there is no checkpoint at all, begin with the model's own parameters.

        Raises:
          CheckpointError: no checkpoint, none that is whole, or one of another model.
          PlanMismatchError: the plan is for another model or another number of devices.
        """
        found = shared_survey(self.folder)
        self._damaged = found.damaged
        if found.newest is None and not found.damaged and or_start:
            step, state = compile_plan(self._plan.record, model, device_list(mesh, self._plan.cluster))
            return Resumed(step, state, 0, found.skipped)
        if found.newest is None:
            raise _nothing_to_load(self.folder, found)
        built = build_step(self._plan.record, model, device_list(mesh, self._plan.cluster))
        template = abstract_state(built.program, built.placed)
        _check_same_model(found.newest.folder, found.newest.about, leaf_types(template), model)
        try:
            wanted = stored(template)
            spread = Spread(wanted)
            arrays = spread.home(_orbax().read_arrays(found.newest.folder, spread.out(wanted)), wanted)
        except _FAULTS as fault:
            raise CheckpointError(f"cannot load {found.newest.folder}: {fault}",
                                  "use the library versions that its about/metadata names") from fault
        return Resumed(built.step, built.ready(restored(template, arrays)), found.newest.count, found.skipped,
                       _differences(found.newest, self._plan))

    def due(self, count: int) -> bool:
        """Whether the state after this many steps is one to save."""
        return count % self.every == 0

    def save(self, count: int, state: RunState, *, force: bool = False) -> bool:
        """Save a state if its turn has come. Returns once it is copied to the host; files are written meanwhile.

        Args:
          count: steps done so far.
          state: the state after them; the next step may have it at once.
          force: save even if it is not one in `every`.

        Returns:
          Whether it is saved.

        Raises:
          CheckpointError: this one or the one before could not be written, or the folder has newer ones already.
        """
        if not self.due(count) and not force:
            return False
        with self._writing(f"cannot save step {count} in {self.folder}"):
            manager = self._opened()
            latest = manager.latest_step()
            if latest is not None and latest >= count:
                raise CheckpointError(f"{self.folder} has a checkpoint of step {latest} already, step {count} is to be "
                                      "saved", "resume from it, or give an empty folder")
            arrays = stored(state)
            self._spread = self._spread or Spread(arrays)
            _orbax().start_save(manager, count, self._spread.out(arrays), to_data(about(self._plan.record, state)))
        return True

    def wait(self) -> None:
        """Wait until all is written. Raises `CheckpointError` if it could not be; later saves are tried anew."""
        if self._manager is not None:
            with self._writing(f"cannot save in {self.folder}"):
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, and end what works in the background."""
        if self._manager is not None:
            with self._writing(f"cannot save in {self.folder}"):
                self._manager.close()
                self._manager = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        try:
            self.close()
        except CheckpointError:
            if error is None:  # else the fault that ended the loop is the one to see
                raise

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """Report faults; a manager that has failed is given up, for it fails again at every later save."""
        try:
            yield
        except _FAULTS as fault:
            self._manager = None
            raise SaveError(f"{what}: {fault}", "free space there, or give another folder") from fault

    def _opened(self) -> Any:
        if self._manager is None:
            by_process_0(self._tidied)
            self._damaged = ()
            self._manager = _orbax().open_manager(self.folder, self.keep)
        return self._manager

    def _tidied(self) -> None:
        for place in self._damaged:
            set_aside(place)
        remove_unfinished(self.folder)


def last_plan(folder: str | os.PathLike[str]) -> Plan | None:
    """The plan of the newest whole checkpoint in a folder; None where there is none.

    Raises:
      PlanFileError: it is of a version that this one does not read.
    """
    newest = survey(Path(folder)).newest
    return None if newest is None else Plan(plan_io.from_json(newest.about.plan, f"the plan in {newest.folder}"))


def _orbax() -> Any:
    try:
        from planner.checkpoint import manager
    except ModuleNotFoundError as fault:
        raise CheckpointError(f"checkpoints need orbax-checkpoint, which is not installed ({fault})",
                              "pip install 'jax-planner[checkpoint]'") from fault
    return manager


def _nothing_to_load(folder: Path, found: Survey) -> CheckpointError:
    if not found.skipped:
        return CheckpointError(f"there is no checkpoint in {folder}", "give the folder of a run that saved one")
    return CheckpointError(f"no checkpoint in {folder} is whole: {'; '.join(found.skipped)}",
                           "restore the folder from a copy, or start again in another")


def _differences(saved: Whole, plan: Plan) -> tuple[str, ...]:
    """A model that computes something else on the same arrays may be meant: another learning rate, say."""
    now, said = plan.record, saved.about
    if said.microbatches != now.microbatches or said.fingerprint == now.fingerprint:
        return ()
    return (f"{saved.folder} was saved by a model with fingerprint {said.fingerprint[:12]}, this one has "
            f"{now.fingerprint[:12]}: the same arrays, but other operators or constants",)


def _check_same_model(folder: Path, said: About, wanted: Sequence[LeafType], model: Model) -> None:
    """Raise `CheckpointError` that names the first array in which a checkpoint and a model differ."""
    saved = {leaf.name: leaf for leaf in said.leaves}
    for leaf in wanted:
        if saved.get(leaf.name) != leaf:
            there = f"{saved[leaf.name]} in the checkpoint" if leaf.name in saved else "not in the checkpoint"
            raise _other_model(folder, said, model, f"{leaf.name!r} is {leaf} in the model, {there}")
    more = sorted(saved.keys() - {leaf.name for leaf in wanted})
    if more:
        raise _other_model(folder, said, model, f"{more[0]!r} is {saved[more[0]]} in the checkpoint, not in the model")


def _other_model(folder: Path, said: About, model: Model, difference: str) -> CheckpointError:
    return CheckpointError(f"{folder} is a checkpoint of another model ({said.model_name!r}, not {model.name!r}): "
                           f"{difference}", "give the model and optimizer that were saved, or another folder")
