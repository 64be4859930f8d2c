"""Processes of a test, started and waited for with a limit, so that a hang is a failure."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from planner.processes.launch import free_port
from tests.quickly import QUICKLY

WORKER = Path(__file__).with_name("worker.py")
ROOT = WORKER.parents[2]
LIMIT_S = 240
"""Far above what a loaded machine takes; a run of these that hangs takes longer."""

SILENT_S = 120
"""Until a process without a sign of life is given up: on a machine with five times as much to do as it has cores, one
was late by 30 s, the default."""


@dataclass(frozen=True)
class Job:
    """What every process does: `cases` of `cases.py`, `steps` each, on `devices` virtual devices a process."""

    count: int
    devices: int
    cases: list | dict
    steps: int = 3
    more: dict = field(default_factory=dict)

    def start(self) -> list[subprocess.Popen]:
        port = free_port("127.0.0.1")
        text = json.dumps({"devices": self.devices, "cases": self.cases, "steps": self.steps} | self.more
                          | {"limits": {"silent_s": SILENT_S} | self.more.get("limits", {})})
        environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **QUICKLY}
        return [subprocess.Popen([sys.executable, str(WORKER), f"127.0.0.1:{port}", str(self.count), str(n), text],
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
                for n in range(self.count)]

    def run(self) -> list[tuple[int, str, str]]:
        """(exit code, standard output, errors) of every process."""
        return ended(self.start())


def ended(started: list[subprocess.Popen], limit_s: float = LIMIT_S) -> list[tuple[int, str, str]]:
    try:
        told = [process.communicate(timeout=limit_s) for process in started]
    finally:
        for process in started:
            process.kill()
            process.communicate()  # else a later test is told of what this one left
    return [(process.returncode, out, err) for process, (out, err) in zip(started, told, strict=True)]
