"""Checkpoints of runs of many processes: resumed by others, under other plans; never lost when one is killed."""

import json
import time

import jax
import pytest

from planner.check.inputs import random_batch
from planner.checkpoint import Checkpoints
from planner.planned import Plan
from tests.checkpoint.runs import plan_of
from tests.processes.cases import CASES
from tests.processes.harness import Job, ended
from tests.runtime import models
from tests.runtime.plans import Design

DATA = Design(microbatches=4)
STEPS = 6


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    """Losses of a run of one process that nothing interrupts."""
    return go_on(tmp_path_factory.mktemp("whole") / "run", STEPS)


def go_on(folder, until):
    """Losses of the steps that are left to do, in this process."""
    model = models.stateful()
    with Checkpoints(folder, Plan(plan_of(model, DATA).record)) as checkpoints:
        run = checkpoints.resume(model, jax.devices(), or_start=True)
        state, losses = run.state, {}
        for n in range(run.done, until):
            state, metrics = run.step(state, random_batch(model, n))
            losses[n] = float(metrics["loss"])
            checkpoints.save(n + 1, state)
    return losses


def told(out):
    return {x["step"]: x["loss"] for x in map(json.loads, (x for x in out.splitlines() if x.startswith('{"step"')))}


@pytest.mark.parametrize("runs", [
    pytest.param([(2, "stateful, mixed", 3)], id="2 and 1 processes"),
    pytest.param([(2, "stateful, mixed", 2), (4, "stateful, data", 4)], id="2, 4 and 1 processes")])
def test_runs_are_resumed_by_other_numbers_of_processes_under_other_plans(tmp_path, right, runs):
    assert CASES["stateful, data"].design == DATA
    found = {}
    for count, case, until in runs:
        for code, out, err in Job(count, 8 // count, [case], until, {"folder": str(tmp_path)}).run():
            assert code == 0, err[-3000:]
            found |= told(out)
    found |= go_on(tmp_path, STEPS)
    assert found == pytest.approx(right, rel=2e-5) and len(found) == STEPS


def test_the_last_checkpoint_survives_a_process_killed_while_saving(tmp_path, right):
    started = Job(2, 4, ["stateful, mixed"], 1_000_000, {"folder": str(tmp_path)}).start()
    end = time.monotonic() + 120
    while not (tmp_path / "1").is_dir() and time.monotonic() < end:
        time.sleep(0.01)
    while not list(tmp_path.glob("*tmp*")) and time.monotonic() < end:  # one is being written
        time.sleep(0.001)
    started[1].kill()
    (code, _, err), _ = ended(started, 60)
    assert code == 70 and "process 1 ended without a word" in err
    done = max(Checkpoints(tmp_path, plan_of(models.stateful(), DATA)).counts)
    found = go_on(tmp_path, max(STEPS, done + 1))
    assert min(found) >= 1 and {n: x for n, x in found.items() if n in right} == pytest.approx(
        {n: x for n, x in right.items() if n in found}, rel=2e-5)
