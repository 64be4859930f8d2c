"""Runs of two and four processes equal the run on one device: losses of every step, and the state after the last."""

import json

import pytest

from tests.processes.harness import Job

JOBS = {
    "2 processes": Job(2, 4, ["fsdp, moments on the host", "stateful, mixed", "zero bubbles"]),
    "4 processes": Job(4, 2, ["skipping"]),
    "4 processes, clipped": Job(4, 2, ["clipped"]),
    "2 processes, each its share of the batch": Job(2, 4, ["mixed, four microbatches", "tied"], more={"share": True}),
}


SLOW = ("2 processes", "4 processes, clipped")
"""Left to `make test-all`: as many processes run in others too."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in JOBS])
def test_processes_train_as_one_device(name):
    job = JOBS[name]
    found = job.run()
    for code, out, err in found:
        assert code == 0, err[-3000:]
        assert [json.loads(x)["case"] for x in out.splitlines() if x.startswith("{")] == job.cases
