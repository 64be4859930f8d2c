"""`planner run` in many processes: starting them on this machine, and joining as one of them.

In: the command line. Out: the exit code of all; or devices of all processes, and whether this is the one that prints.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from planner.errors import MeshError, ProcessError

if TYPE_CHECKING:
    import jax

    from planner.planned import Plan

ENVIRONMENT = "environment"
"""`--join` without a value: Slurm, Open MPI or Kubernetes say who the others are."""


def add(parser: argparse.ArgumentParser) -> None:
    """How many processes to start, or which one this is."""
    group = parser.add_argument_group("many processes")
    group.add_argument("--processes", type=int, metavar="N", help="start N processes on this machine, over the "
                       "loopback address; they run one plan together")
    group.add_argument("--devices-per-process", type=int, metavar="N", help="virtual CPU devices of each process")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="with --processes: where process 0 listens (default: "
                       "127.0.0.1 and a free port)")
    group.add_argument("--join", metavar="HOST:PORT,COUNT,PROCESS", nargs="?", const=ENVIRONMENT, help="be one process "
                       "of a run: without a value, of the job that Slurm, Open MPI or Kubernetes started; all must "
                       "be given the same --plan")


@dataclass(frozen=True)
class Joined:
    """What this process is in a run, alone or with others: the devices of all, and whether it prints."""

    devices: "list[jax.Device]"
    prints: bool


@contextlib.contextmanager
def joined(args: argparse.Namespace, alone: "Callable[[], list[jax.Device]]") -> Iterator[Joined]:
    """The devices of this process, or of all processes of `--join`.

    Args:
      args: the command line.
      alone: the devices of a run of one process.

    Raises:
      ProcessError: see `planner.distributed`.
    """
    if args.join is None:
        yield Joined(alone(), True)
        return
    if args.plan is None:
        raise ProcessError("--join without --plan: each process would plan for itself",
                           "plan once (`planner plan ... -o FILE`) and give every process the same file")
    from planner.processes import distributed

    coordinator, count, process = (None, None, None) if args.join == ENVIRONMENT else _address(args.join)
    with distributed(coordinator, count, process, devices=args.devices_per_process) as group:
        yield Joined(group.devices, group.process == 0)


def started(args: argparse.Namespace, arguments: Sequence[str], plan: "Callable[[], Plan]") -> int:
    """Start the processes of `--processes`; returns their exit code.

    Args:
      args: the command line, parsed.
      arguments: the command line.
      plan: finds the plan where none is given, for as many virtual devices as the processes will have together.
    """
    from planner.processes.launch import Launch, launch

    if args.join is not None:
        raise ProcessError("--processes starts processes, --join is for one of them", "give one of them")
    if args.processes < 1 or (args.devices_per_process or 0) < 1:
        raise MeshError("--processes and --devices-per-process leave nothing to run on",
                        "give both, from 1: --processes 2 --devices-per-process 4")
    with tempfile.TemporaryDirectory() as folder:
        file = args.plan
        if file is None:
            file = str(Path(folder) / "plan.json")
            args.devices = args.processes * args.devices_per_process
            plan().save(file)
        rest = _without(arguments, ("--processes", "--coordinator", "--devices", "--plan"))
        return launch(Launch(lambda coordinator, n: (
            sys.executable, "-m", "planner.cli", *rest, "--plan", file, "--join", f"{coordinator},{args.processes},{n}"
        ), args.processes, args.coordinator))


def _without(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """A command line without some options, which take a value each."""
    found: list[str] = []
    skip = False
    for text in arguments:
        if skip:
            skip = False
        elif text in names:
            skip = True
        elif not text.startswith(tuple(f"{name}=" for name in names)):
            found.append(text)
    return found


def _address(text: str) -> tuple[str, int, int]:
    coordinator, _, numbers = text.partition(",")
    count, _, process = numbers.partition(",")
    if not (count.isdigit() and process.isdigit() and int(process) < int(count) and ":" in coordinator):
        raise ProcessError(f"--join {text!r} does not say which process of how many this is",
                           "write HOST:PORT,COUNT,PROCESS, as 10.0.0.1:12345,2,0")
    return coordinator, int(count), int(process)
