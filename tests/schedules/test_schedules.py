"""Every schedule keeps the contract of the table, for all small pipelines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import UnknownNameError
from planner.schedules import SCHEDULES, Kind, Task, dispatch_order, predecessors, tasks_of
from planner.simulate import run, uniform

NAMES = tuple(SCHEDULES)
each = pytest.mark.parametrize("name", NAMES)
sizes = {"stages": st.integers(1, 6), "microbatches": st.integers(1, 9)}


def test_the_three_schedules_are_there():
    assert {"gpipe", "1f1b", "forward-only"} <= set(NAMES)


def test_an_unknown_schedule_is_refused_with_a_suggestion():
    with pytest.raises(UnknownNameError, match="gpipe"):
        tasks_of("gpip", 2, 2)


@each
@given(**sizes)
def test_each_task_once_on_its_own_stage(name, stages, microbatches):
    timetable = tasks_of(name, stages, microbatches)
    phases = tuple(Kind) if SCHEDULES[name].trains else (Kind.FORWARD,)
    for s, tasks in enumerate(timetable):
        assert sorted(tasks, key=str) == sorted((Task(s, m, p) for m in range(microbatches) for p in phases), key=str)
    assert len(timetable) == stages


@each
@given(**sizes)
def test_tasks_can_be_dispatched_after_what_they_need(name, stages, microbatches):
    seen = set()
    for task in dispatch_order(tasks_of(name, stages, microbatches), lambda t: predecessors(t, stages)):
        assert set(predecessors(task, stages)) <= seen
        seen.add(task)
    assert len(seen) == sum(map(len, tasks_of(name, stages, microbatches)))


@each
@given(**sizes)
def test_memory_bound_is_reached_and_kept(name, stages, microbatches):
    line = run(SCHEDULES[name], [uniform(1.0, 2.0)] * stages, microbatches)
    assert line.in_flight == tuple(SCHEDULES[name].in_flight(s, stages, microbatches) for s in range(stages))


@each
@given(**sizes, forward=st.integers(1, 5), backward=st.integers(1, 5))
def test_simulated_time_equals_the_closed_form(name, stages, microbatches, forward, backward):
    line = run(SCHEDULES[name], [uniform(float(forward), float(backward))] * stages, microbatches)
    assert line.step_time_s == SCHEDULES[name].step_time(stages, microbatches, forward, backward)


@each
@given(**sizes)
def test_microbatches_go_through_a_stage_in_order(name, stages, microbatches):
    """State is threaded from one microbatch to the next, so forwards must not overtake one another."""
    for tasks in tasks_of(name, stages, microbatches):
        for phase in Kind:
            order = [t.microbatch for t in tasks if t.phase is phase]
            assert order == sorted(order)


def test_an_impossible_timetable_is_noticed():
    stuck = ((Task(0, 0, Kind.BACKWARD), Task(0, 0, Kind.FORWARD)),)
    with pytest.raises(ValueError, match="cannot go on"):
        list(dispatch_order(stuck, lambda t: predecessors(t, 1)))


def test_1f1b_of_two_stages_written_out():
    """Stage 0 goes one forward ahead; stage 1 alternates from the start."""
    text = [" ".join(f"{t.phase.value[0]}{t.microbatch}" for t in tasks) for tasks in tasks_of("1f1b", 2, 3)]
    assert text == ["f0 f1 b0 f2 b1 b2", "f0 b0 f1 b1 f2 b2"]
