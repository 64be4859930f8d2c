"""The simulated timeline against figures worked out by hand."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import planner
from planner import models
from planner.schedules import SCHEDULES
from planner.simulate import Work, forward_share, run, simulate, uniform
from planner.stages import pipeline_time_s
from tests.report.records import eight_devices


def test_a_slow_stage_sets_the_pace():
    """Forward only: 1 + 3 until the slow stage has done its first, then 3 per further microbatch: 1 + 4 · 3 = 13."""
    assert run(SCHEDULES["forward-only"], [uniform(1, 0), uniform(3, 0)], 4).step_time_s == 13


def test_receiving_keeps_the_receiver_busy():
    """One microbatch, two stages: 1 forward, 0.5 receiving, 1 forward, 2 backward, 0.5 sending back, 2 backward."""
    line = run(SCHEDULES["1f1b"], [uniform(1, 2), uniform(1, 2, receive_s=0.5)], 1)
    assert line.step_time_s == 7
    assert line.busy_s(1) == 4


@pytest.mark.parametrize("stages", [2, 4, 8])
def test_transfers_beside_the_arithmetic_do_not_hide_under_1f1b(stages):
    """Stage 0 waits for a round trip every S microbatches: (1 - 1/S) of the two ways per microbatch."""
    times = [uniform(1, 2, link_s=0.25)] * stages
    more, fewer = (run(SCHEDULES["1f1b"], times, n * stages).step_time_s for n in (20, 10))
    assert (more - fewer) / (10 * stages) == pytest.approx(3 + 0.5 * (1 - 1 / stages))


@pytest.mark.parametrize("name", ["1f1b", "gpipe", "forward-only"])
@given(st.integers(1, 6), st.integers(1, 12), st.floats(0.1, 3), st.floats(0.1, 3), st.floats(0, 1), st.floats(0, 2))
def test_equal_stages_take_what_the_search_says(name, stages, microbatches, forward, backward, send, batch):
    """The search's formula is exact here: sum of the stages + (B - 1) times the slowest + the slowest's batch work."""
    trains = SCHEDULES[name].trains
    time = uniform(forward, backward if trains else 0.0, batch_s=batch, receive_s=send)
    per = forward + (backward + 2 * send if trains else send)
    line = run(SCHEDULES[name], [time] * stages, microbatches)
    assert line.step_time_s == pytest.approx(pipeline_time_s([per] * stages, microbatches) + batch, rel=1e-9)


@pytest.mark.parametrize("name", ["1f1b", "gpipe", "forward-only"])
@given(st.lists(st.floats(0.1, 3), min_size=1, max_size=6), st.integers(1, 12), st.floats(0, 0.5))
def test_uneven_stages_of_one_split_take_no_longer_than_the_search_says(name, stages, microbatches, send):
    """Forward, backward and hand-over in the same ratio everywhere: the formula is a bound, the slowest stage's work
    another. (Where the slowest forward and the slowest backward are of different stages, GPipe takes longer.)"""
    trains = SCHEDULES[name].trains
    times = [uniform(t, 2 * t if trains else 0.0, receive_s=send * t) for t in stages]
    per = [t + (2 + 2 * send if trains else send) * t for t in stages]
    line = run(SCHEDULES[name], times, microbatches)
    assert microbatches * max(per) <= line.step_time_s * (1 + 1e-9)
    assert line.step_time_s <= pipeline_time_s(per, microbatches) * (1 + 1e-9)


def test_the_update_comes_last():
    line = run(SCHEDULES["gpipe"], [uniform(1, 2, batch_s=4)], 2)
    assert line.step_time_s == 10
    assert line.intervals[-1].work is Work.UPDATE


def test_bubble_of_equal_stages():
    """(S - 1) / (B + S - 1) of the time is waiting: 3 / 7 for four stages and four microbatches."""
    assert run(SCHEDULES["1f1b"], [uniform(1, 2)] * 4, 4).bubble == pytest.approx(3 / 7)


def test_a_plan_is_simulated_from_its_own_times():
    record = eight_devices()
    line = simulate(record)
    least = max(record.microbatches * s.time.microbatch_s for s in record.stages)
    assert line.step_time_s > least
    assert line.in_flight == (2, 1)
    for s in record.stages:
        busy = record.microbatches * (s.time.microbatch_s + s.send_s) + s.time.batch_s
        assert line.busy_s(s.index) == pytest.approx(busy)


def test_the_forward_share_is_that_of_the_flops():
    record = eight_devices()
    forward = record.microbatches * sum(layer.flops for layer in record.layers)
    three = replace(record, model_flops=3 * forward)
    assert forward_share(three, three.stages[0]) == pytest.approx(1 / 3)
    again = replace(three.stages[0], recompute=tuple(range(*three.stages[0].layers)))
    assert forward_share(three, again) == pytest.approx(1 / 4)
    half = replace(three.stages[0], recompute=(0, 1, 2))
    assert forward_share(three, half) == pytest.approx(2 / 7)


@pytest.mark.parametrize("model", ["gpt-tiny", "mlp-tiny"])
def test_a_pipeline_of_the_zoo_is_simulated_as_it_was_priced(model):
    """Two stages found by the search, their hand-over included: within 2 % of the predicted step."""
    plan = planner.plan(models.build(model, batch_size=64), planner.cluster("cpu-8"), stages=2, microbatches=16)
    assert simulate(plan.record).step_time_s == pytest.approx(plan.step_time_s, rel=0.02)
