"""What the processes of a run know of each other's steps: that all run the same plan, and where each is.

In: a plan's record and the devices; steps. Out: nothing, or the same error in every process.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from planner.core.plan import PlanRecord
from planner.errors import PlanMismatchError, ProcessError
from planner.processes import facts
from planner.processes.agree import agree_on_devices
from planner.processes.in_turn import must_wait
from planner.processes.standstill import JOINED
from planner.runtime.state import RunState


def check_processes(record: PlanRecord, devices: Sequence[Any]) -> None:
    """Nothing to check for a run of one process.

    Raises:
      PlanMismatchError: a process has no device of the plan.
      DisagreementError: processes have other plans, or the devices in another order.
      ProcessError: the processes are started in a way in which pipelines over several may wait for ever.
    """
    count = jax.process_count()
    if count == 1:
        return
    idle = sorted(set(range(count)) - {d.process_index for d in devices})
    if idle:
        raise PlanMismatchError(
            f"the plan is for {record.device_count} devices, {count} processes have {jax.device_count()}: process "
            f"{', '.join(map(str, idle))} would have none of it",
            "start as many processes and devices as the plan is for, or plan for these")
    agree_on_devices(facts.of_plan(record, devices))
    if devices[0].platform == "cpu" and jax.config.read("jax_cpu_enable_async_dispatch"):
        raise ProcessError("on CPU, JAX starts programs of several processes in no fixed order, and they would wait "
                           "for each other", "use `with planner.distributed() as group:`, or set "
                           "jax_cpu_enable_async_dispatch to False before JAX starts")


class Told:
    """A step that lets the other processes know that this one is in it, until its outputs are there.

    Args:
      step: `(state, batch) -> ` state and outputs, or one of them.
      mesh: of devices of the run.
    """

    def __init__(self, step: Callable[[RunState, Any], Any], mesh: Mesh) -> None:
        self._step, self._mesh = step, mesh
        self._compiled = False

    def __call__(self, state: RunState, batch: Any) -> Any:
        """The step."""
        progress = JOINED.get()
        if progress is None:
            return self._step(state, batch)
        progress.step()
        if must_wait(self._mesh):  # its programs say so themselves
            return self._step(state, batch)
        # starting programs may wait for some that are under way; the first time they are compiled, which takes long
        with progress.waiting("its programs to start") if self._compiled else contextlib.nullcontext():
            result = self._step(state, batch)
        self._compiled = True
        leaves = jax.tree_util.tree_leaves(result, is_leaf=lambda x: isinstance(x, RunState))
        progress.wait_for([x for x in leaves if not isinstance(x, RunState)], "its outputs")  # the next takes the state
        return result
