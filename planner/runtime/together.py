"""Whether the processes of a run may run a plan together: the same plan, and a part of it for each.

In: a plan's record and the devices. Out: nothing, or the same error in every process.
"""

from collections.abc import Sequence
from typing import Any

import jax

from planner.core.plan import PlanRecord
from planner.errors import PlanMismatchError, ProcessError
from planner.processes import facts
from planner.processes.agree import agree_on_devices


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
