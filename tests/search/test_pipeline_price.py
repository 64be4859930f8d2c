"""The price of a pipeline against the event simulation and closed forms, which share no code with it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.core.layout import placed
from planner.pipelines.price import Pipeline, price, stage_times
from planner.pipelines.stages import Sharing, pipeline_time_s
from planner.schedules import SCHEDULES, TaskTimes
from planner.simulate import run, uniform

TRAINING = [name for name in SCHEDULES if SCHEDULES[name].trains]


def pipeline(name, ranks, microbatches, rng, uneven=0.0):
    """A random pipeline under that schedule."""
    schedule = SCHEDULES[name]
    layout = placed(schedule.placement, ranks, schedule.chunks[0])
    parts = np.array([1.0, 1.1, 0.8]) * (1 + uneven * rng.uniform(-1, 1, size=(layout.stages, 3)))
    times = tuple(TaskTimes(f, i, w) if schedule.splits_backward else TaskTimes(f, i + w) for f, i, w in parts.tolist())
    return Pipeline(name, layout, times, tuple(rng.uniform(0, 2, size=layout.stages).tolist()), microbatches)


def simulated(p):
    works = [uniform(t.forward_s, t.backward_s, t.weight_s, batch_s=once)
             for t, once in zip(p.times, p.batch_s, strict=True)]
    return run(SCHEDULES[p.schedule], works, p.microbatches, None, layout=p.layout, intervals=False).step_time_s


@settings(deadline=None)
@given(st.sampled_from(TRAINING), st.sampled_from([2, 3, 4]), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_is_what_the_simulation_says(name, ranks, rounds, seed):
    p = pipeline(name, ranks, ranks * rounds, np.random.default_rng(seed), uneven=0.5)
    assert price(p).step_time_s == pytest.approx(simulated(p), rel=1e-12)


@pytest.mark.parametrize("name", TRAINING)
@pytest.mark.parametrize("uneven", [0.0, 0.02, 0.5])
def test_long_steps_are_read_off_short_ones(name, uneven):
    p = pipeline(name, 4, 2048, np.random.default_rng(5), uneven)
    assert price(p).step_time_s == pytest.approx(simulated(p), rel=1e-3)


@pytest.mark.parametrize("name", TRAINING)
def test_equal_stages_take_the_closed_form(name):
    schedule = SCHEDULES[name]
    layout = placed(schedule.placement, 4, schedule.chunks[0])
    each = TaskTimes(1.0, 1.0, 1.0) if schedule.splits_backward else TaskTimes(1.0, 2.0)
    closed = schedule.step_time(layout, 16, each)
    if closed is not None:
        found = price(Pipeline(name, layout, (each,) * layout.stages, (0.0,) * layout.stages, 16))
        assert found.step_time_s == pytest.approx(closed)
        assert found.bubble == pytest.approx(1 - 16 * 3 * layout.chunks / closed)


def test_one_f_one_b_takes_at_most_what_alpa_says():
    rng = np.random.default_rng(2)
    for _ in range(20):
        p = pipeline("1f1b", 4, 8, rng, uneven=0.6)
        most = pipeline_time_s([t.whole_s for t in p.times], 8) + max(p.batch_s)
        assert price(p).step_time_s <= most * (1 + 1e-12)


def test_on_shared_cores_a_bubble_costs_less():
    """Two stages of one microbatch: one of two devices works at a time. Alone it is as fast as both, or as ever."""
    each = TaskTimes(1.0, 2.0)
    p = Pipeline("1f1b", placed(SCHEDULES["1f1b"].placement, 2), (each, each), (0.0, 0.0), 1)
    assert price(p).step_time_s == 6
    assert price(p, Sharing([0.5, 0.5], 2, 2.0)).step_time_s == pytest.approx(3)
    assert price(p, Sharing([0.5, 0.5], 2, 2.0)).bubble == pytest.approx(0)


def test_every_task_is_a_call_and_what_is_carried_goes_with_the_first_backward():
    whole = stage_times((3.0, 6.0), 2.0, 0.1, 0.5, splits=False)
    assert (whole.forward_s, whole.backward_s) == (3.6, 6.6)
    apart = stage_times((3.0, 6.0), 2.0, 0.1, 0.5, splits=True)
    assert (apart.forward_s, apart.input_s, apart.weight_s) == pytest.approx((3.6, 4.6, 2.1))
