"""When a run stands still, and when it only takes long."""

import threading
import time

import jax.numpy as jnp
import pytest

from planner.processes.standstill import Progress, Report, Standstill

WAITS = Report(7, 3, "stage0_forward")


def test_all_wait_and_none_moves_on():
    still = Standstill(2, 10)
    reports = {0: WAITS, 1: Report(9, 3, "a transfer")}
    assert still.found(reports, 100) is None and still.found(reports, 109) is None
    assert still.found(reports, 110).startswith(
        "no process has moved on for 10 s (process 0 waits for stage0_forward in step 3; process 1 waits for a "
        "transfer in step 3)")


@pytest.mark.parametrize("other", [Report(9, 3), None], ids=["compiles", "not heard of"])
def test_who_waits_for_a_process_that_works_may_wait(other):
    still = Standstill(2, 10)
    reports = {0: WAITS} | ({} if other is None else {1: other})
    assert all(still.found(reports, now) is None for now in (0, 100, 1000))


def test_one_that_moves_on_gives_all_new_time():
    still = Standstill(2, 10)
    for now in range(0, 100, 5):
        assert still.found({0: WAITS, 1: Report(now, 3, "stage1_forward")}, now) is None
    assert still.found({0: WAITS, 1: Report(95, 3, "stage1_forward")}, 105)


def test_progress_counts_what_begins_and_ends():
    progress = Progress()
    assert progress.report == Report()
    progress.step()
    with progress.waiting("a"):
        with progress.waiting("b"):
            assert progress.report == Report(3, 1, "b")
        assert progress.report == Report(4, 1, "a")
    assert progress.report == Report(5, 1, "")


def test_arrays_under_way_are_waited_for_beside():
    progress, held = Progress(), threading.Event()

    class Late:
        def block_until_ready(self):
            held.wait()

    progress.wait_for([Late(), jnp.ones(2)], "its outputs")
    time.sleep(0.05)
    assert progress.report.waits == "its outputs"
    held.set()
    progress.settle()
    assert progress.report == Report(2, 0, "")


def test_arrays_that_were_given_away_are_not_waited_for():
    progress, gone = Progress(), jnp.ones(2)
    gone.delete()
    progress.wait_for([gone], "its outputs")
    progress.settle()
