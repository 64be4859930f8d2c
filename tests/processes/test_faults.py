"""When one process is killed, or runs something else, all end within a bound, and say which and why."""

import random
import time

import pytest

from tests.processes.harness import Job, ended

END_S = 20
"""Bound on how long the others live on. A killed process is told of in a fraction of a second on an idle machine."""


def begun(started):
    """Wait until every process has done a step."""
    for process in started:
        for line in process.stdout:
            if line.startswith("begun"):
                break
        else:
            pytest.fail(process.stderr.read()[-3000:])


@pytest.mark.parametrize("count", [2, 4])
def test_all_end_when_one_is_killed(count):
    started = Job(count, 8 // count, ["two stages"], steps=1_000_000).start()
    begun(started)
    chance = random.Random(count)
    victim = chance.randrange(count)
    time.sleep(chance.random())
    started[victim].kill()
    start = time.monotonic()
    found = ended(started, END_S)
    assert time.monotonic() - start < END_S
    for n, (code, _, err) in enumerate(found):
        if n != victim:
            assert code == 70 and f"error: process {victim} ended without a word" in err, err[-3000:]


def test_other_options_in_one_process_are_named_before_anything_runs():
    found = Job(2, 1, [], more={"flags": {"1": ["jax_enable_x64", True]}}).run()
    errors = [[line for line in err.splitlines() if line.startswith("error:")] for _, _, err in found]
    assert errors[0] == errors[1] and "process 1 has options jax_enable_x64=True" in errors[0][0]
    assert [code for code, _, _ in found] == [2, 2]


def test_another_plan_in_one_process_is_named():
    found = Job(2, 4, {"0": ["two stages"], "1": ["mixed"]}).run()
    errors = [[line for line in err.splitlines() if line.startswith("error:")] for _, _, err in found]
    assert errors[0] == errors[1] and "process 1 has a plan with checksum" in errors[0][0]
    assert [code for code, _, _ in found] == [2, 2]


def test_a_process_whose_fellows_do_not_come_ends():
    started = Job(2, 1, [], more={"limits": {"start_s": 2}}).start()
    started[0].kill()
    _, (code, _, err) = ended(started)
    assert code == 2 and "process 1 of 2 has not found all others within 2 s" in err
