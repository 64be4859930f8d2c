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


def test_all_end_when_each_waits_for_another():
    """A device of process 1 never does its part of a step; process 0 is in a collective with it."""
    started = Job(2, 4, ["two stages"], more={"never ends": 1, "limits": {"stuck_s": 8}}).start()
    begun(started)
    start = time.monotonic()
    for code, _, err in ended(started, END_S):
        assert code == 70 and "error: no process has moved on for 8 s (process 0 waits for " in err, err[-3000:]
        assert " in step 2; process 1 waits for what never ends in step 1)" in err
    assert time.monotonic() - start < END_S


def test_leaving_the_others_has_a_bound_too():
    limits = {"silent_s": 8, "end_s": 1}
    found = ended(Job(2, 1, [], more={"stays": 1, "limits": limits}).start(), 60)
    code, _, err = found[1]
    assert code == 70 and "error: process 1 was done 10 s ago" in err, err[-3000:]
