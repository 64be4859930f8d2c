"""`planner run --processes`: as one process runs it, and what it refuses."""

import json
import subprocess
import sys

import pytest

from planner.cli import main

RUN = ("run", "mlp-tiny", "--batch", "16", "--steps", "2", "--stages", "2", "--microbatches", "2",
       "--hardware", "cpu-8", "--json")


def losses(out):
    return [json.loads(line)["loss"] for line in out.splitlines()]


def test_processes_run_as_one_and_one_of_them_prints(capsys):
    command = (sys.executable, "-m", "planner.cli", *RUN, "--processes", "2", "--devices-per-process", "2")
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert main([*RUN, "--devices", "4"]) == 0
    alone = losses(capsys.readouterr().out)
    assert losses(done.stdout) == pytest.approx(alone, rel=2e-5) and len(alone) == 2


@pytest.mark.parametrize(("options", "message"), [
    (("--processes", "2"), "leave nothing to run on"),
    (("--processes", "2", "--devices-per-process", "2", "--join"), "--join is for one of them"),
    (("--join",), "--join without --plan"),
    (("--plan", "p.json", "--join", "here"), "does not say which process of how many"),
])
def test_what_cannot_be_started_is_refused(capsys, options, message):
    assert main([*RUN, *options]) == 2
    assert message in capsys.readouterr().err
