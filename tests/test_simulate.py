"""The simulated timeline against figures worked out by hand."""

import pytest

from planner.schedules import SCHEDULES
from planner.simulate import StageTime, run, simulate
from tests.report.records import eight_devices


def test_a_slow_stage_sets_the_pace():
    """Forward only: 1 + 3 until the slow stage has done its first, then 3 per further microbatch: 1 + 4 · 3 = 13."""
    assert run(SCHEDULES["forward-only"], [StageTime(1, 0), StageTime(3, 0)], 4).step_time_s == 13


def test_sending_delays_the_receiver():
    """One microbatch, two stages: 1 forward, 0.5 sending, 1 forward, 2 backward, 0.5 sending, 2 backward."""
    line = run(SCHEDULES["1f1b"], [StageTime(1, 2, send_s=0.5), StageTime(1, 2)], 1)
    assert line.step_time_s == 7


def test_the_update_comes_last():
    line = run(SCHEDULES["gpipe"], [StageTime(1, 2, batch_s=4)], 2)
    assert line.step_time_s == 10
    assert line.intervals[-1].task is None


def test_bubble_of_equal_stages():
    """(S - 1) / (B + S - 1) of the time is waiting: 3 / 7 for four stages and four microbatches."""
    assert run(SCHEDULES["1f1b"], [StageTime(1, 2)] * 4, 4).bubble() == pytest.approx(3 / 7)


def test_a_plan_is_simulated_from_its_own_times():
    record = eight_devices()
    line = simulate(record)
    least = max(record.microbatches * s.time.microbatch_s for s in record.stages)
    assert line.step_time_s > least
    assert line.in_flight == (2, 1)
