"""`planner.distributed()`: the processes of a run, from finding each other to ending together.

In: what Slurm, Open MPI, Kubernetes or the caller says of the processes. Out: a `Group` while the run lasts. Around it
every process compares versions and flags with the others, and watches them: whatever ends one of them, all end within a
stated bound, each with the reason.
"""

import contextlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from planner import compat
from planner.errors import DisagreementError, PlannerError, ProcessError
from planner.processes import agree, facts
from planner.processes.in_turn import in_turn
from planner.processes.standstill import JOINED, Progress
from planner.processes.watch import Limits, Watch

WRONG, LOST, INTERRUPTED = 2, 70, 130
"""Exit codes: wrong input, as of the command line; another process ended (EX_SOFTWARE of sysexits.h); Ctrl-C."""
_CLOSER_S = 2.0
"""How long a process that fails waits for news that another is gone, whose end broke its collective: they come in less
than a beat of the watch."""


@dataclass(frozen=True)
class GroupOptions:
    """How processes find each other, where the environment does not say.

    Attributes:
      coordinator: `"host:port"` where process 0 listens; other processes must reach it.
      count, process: how many processes there are; which of them this is.
      devices: virtual CPU devices of this process; None: the devices that JAX finds.
      limits: bounds in seconds.
    """

    coordinator: str | None = None
    count: int | None = None
    process: int | None = None
    devices: int | None = None
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Group:
    """The processes of a run.

    Attributes:
      process, count: which process this is, of how many.
    """

    process: int
    count: int

    @property
    def devices(self) -> list[Any]:
        """All devices of all processes, those of a process together: what a plan's devices are numbered by."""
        return sorted(jax.devices(), key=lambda d: (getattr(d, "slice_index", 0) or 0, d.process_index, d.id))


    def batch_of(self, share: Any) -> Any:
        """The batch of which every process gives its share: an equal part of the examples, in the order of processes.

        Args:
          share: a pytree of arrays, dimension 0 the examples; scalars are the same in every process.

        Returns:
          A pytree of arrays that lie whole on every device, gathered there while the host goes on; on CPU it waits.
        """
        mesh = Mesh(np.array(self.devices).reshape(self.count, -1), ("process", "device"))
        leaves, tree = jax.tree_util.tree_flatten(share)
        parts = [jax.make_array_from_process_local_data(
            NamedSharding(mesh, PartitionSpec("process") if np.ndim(x) else PartitionSpec()), np.asarray(x))
            for x in leaves]
        gather = in_turn(jax.jit(_same, out_shardings=NamedSharding(mesh, PartitionSpec())), mesh)
        return tree.unflatten(gather(*parts))


def _same(*arrays: Any) -> tuple[Any, ...]:
    return arrays


@contextlib.contextmanager
def distributed(coordinator: str | None = None, count: int | None = None, process: int | None = None, *,
                devices: int | None = None, limits: Limits | None = None) -> Iterator[Group]:
    """Join the other processes of this run. Call it before anything else uses JAX.

    Under Slurm, Open MPI and Kubernetes no argument is needed: JAX finds the processes (`jax.distributed.initialize`).
    What leaves the block as an exception, here or in another process, ends all processes.

    Args:
      coordinator: `"host:port"` where process 0 listens.
      count, process: how many processes there are; which of them this is.
      devices: virtual CPU devices of this process; None: the devices that JAX finds.
      limits: bounds in seconds.

    Raises:
      ProcessError: processes do not find each other in time, the port is taken, or they run other code or flags.
    """
    options = GroupOptions(coordinator, count, process, devices, limits or Limits())
    _initialize(options)
    group = Group(*compat.process_numbers())
    with _watched(group, options.limits):
        agree.agree(compat.coordination_client(), group.process, group.count, "start", facts.of_process())
        yield group


def _initialize(options: GroupOptions) -> None:
    if options.devices is not None:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", options.devices)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Programs of one device may run in another order here than elsewhere, and then wait for each other; for those of
    # several see `in_turn.py`.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    jax.config.update("jax_enable_preemption_service", False)  # it would swallow SIGTERM
    jax.config.update("jax_enable_recoverability", True)  # else XLA aborts with its own stack, before any word of ours
    try:
        with _alarm(options.limits.start_s, f"error: {_not_found(options)}", WRONG):
            jax.distributed.initialize(
                options.coordinator, options.count, options.process, coordinator_bind_address=options.coordinator,
                # XLA aborts with its own stack when this is over: the alarm comes first, and says what to do
                initialization_timeout=int(options.limits.start_s) + 60,
                shutdown_timeout_seconds=int(options.limits.end_s))
    except (RuntimeError, ValueError) as fault:
        if "start RPC server" in str(fault):
            raise ProcessError(f"process 0 cannot listen at {options.coordinator}: the port is taken, or the address "
                               f"is not this machine's ({fault})", "give another port, or process 0's own address"
                               ) from fault
        raise ProcessError(f"the processes of this run are not known: {fault}", "outside Slurm, Open MPI and "
                           "Kubernetes give coordinator, count and process") from fault


@contextlib.contextmanager
def _alarm(seconds: float, text: str, code: int) -> Iterator[None]:
    """End this process if the block takes longer, whatever it waits for."""
    alarm = threading.Timer(seconds, _end, (text, code))
    alarm.daemon = True
    alarm.start()
    try:
        yield
    finally:
        alarm.cancel()


def _not_found(options: GroupOptions) -> ProcessError:
    me = "this process" if options.process is None else f"process {options.process} of {options.count}"
    return ProcessError(f"{me} has not found all others within {options.limits.start_s:.0f} s, "
                        f"at {options.coordinator or 'the address that the environment gives'}",
                        "start every process, process 0 first among them, with one address that all can reach")


@contextlib.contextmanager
def _watched(group: Group, limits: Limits) -> Iterator[None]:
    """Run the block while all processes live; end this one with the reason otherwise."""
    if group.count == 1:
        yield
        return
    progress = Progress()
    watch = Watch(group.process, group.count, limits, _end_lost, progress)
    try:
        _connect(watch, group, limits)
        JOINED.set(progress)
        yield
        progress.settle()
    except SystemExit as end:
        if end.code not in (None, 0):
            _end_failed(watch, end)
        watch.done()
    except BaseException as fault:  # noqa: BLE001  whatever it is, the others must not wait for it
        _end_failed(watch, fault)
    else:
        watch.done()
    finally:
        JOINED.set(None)
    with _alarm(limits.leave_s, f"error: process {group.process} was done {limits.leave_s:.0f} s ago, and has not come "
                "away from the others since: look at what they wrote", LOST):
        if group.process == 0:
            watch.close()  # waits for the others, whose own end needs the coordination service here
            jax.distributed.shutdown()
        else:
            jax.distributed.shutdown()
            watch.close()


def _connect(watch: Watch, group: Group, limits: Limits) -> None:
    client, host = compat.coordination_client(), compat.coordinator_address().rpartition(":")[0]
    host = host.strip("[]") or "127.0.0.1"
    key = "planner/watch"
    try:
        if group.process == 0:
            server, port = watch.listen(host)
            client.key_value_set(key, json.dumps([host, port]))
            watch.accept(server)
        else:
            host, port = json.loads(client.blocking_key_value_get(key, int(limits.start_s * 1000)))
            watch.connect(host, port)
    except (OSError, RuntimeError) as fault:
        raise ProcessError(f"process {group.process} cannot watch the others over {host}: {fault}",
                           "all processes must reach the address of process 0") from fault


def _end_lost(why: str) -> None:
    _end(f"error: {why}; this process ends too", LOST)


def _end(text: str, code: int) -> None:
    """End this process, whatever its main thread waits for."""
    sys.stdout.flush()
    sys.stderr.write(text + "\n" if text else "")
    sys.stderr.flush()
    os._exit(code)


def _end_failed(watch: Watch, fault: BaseException) -> None:
    """Tell the others, say what happened, and end: JAX's own end would wait for processes that wait for this one."""
    ours = isinstance(fault, DisagreementError | SystemExit | KeyboardInterrupt)
    if not ours and watch.news_within(_CLOSER_S):  # what a broken collective raises depends on where it breaks
        time.sleep(_CLOSER_S)  # the watch's own thread says what the matter is, and ends this process
    if isinstance(fault, DisagreementError):
        watch.done()  # each process says so itself
    else:
        watch.fail(str(fault) if isinstance(fault, PlannerError) else f"{type(fault).__name__}: {fault}")
    text = f"error: {fault}" if isinstance(fault, PlannerError) else \
        "" if isinstance(fault, SystemExit) else "".join(traceback.format_exception(fault)).rstrip()
    _end(text, fault.code if isinstance(fault, SystemExit) and isinstance(fault.code, int) else
         INTERRUPTED if isinstance(fault, KeyboardInterrupt) else WRONG if isinstance(fault, PlannerError) else 1)
