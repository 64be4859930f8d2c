"""Every schedule keeps the contract of the table, for all small pipelines."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.layout import Layout, Placement, layout_of, placed
from planner.errors import PlanMismatchError, UnknownNameError
from planner.schedules import (
    SCHEDULES,
    Kind,
    Moment,
    Task,
    TaskTimes,
    dispatch_order,
    in_flight,
    moments,
    predecessors,
    tasks_of,
    waiting,
    zb_v,
)
from planner.simulate import run, uniform

NAMES = tuple(SCHEDULES)
each = pytest.mark.parametrize("name", NAMES)


@dataclass(frozen=True)
class Size:
    """What is drawn; of microbatches, as many whole rounds where a schedule wants them."""

    ranks: int
    chunks: int
    microbatches: int

    def of(self, name: str) -> tuple[Layout, int]:
        schedule = SCHEDULES[name]
        fewest, most = schedule.chunks
        layout = placed(schedule.placement, self.ranks, min(max(self.chunks, fewest), most or self.chunks + fewest))
        return layout, self.microbatches * (self.ranks if schedule.in_rounds else 1)


sizes = st.builds(Size, st.integers(1, 6), st.integers(1, 4), st.integers(1, 13))
seconds = st.integers(1, 9)


def test_the_schedules_are_there():
    assert {"gpipe", "1f1b", "interleaved", "zb-h1", "zb-v", "forward-only"} <= set(NAMES)


def test_an_unknown_schedule_is_refused_with_a_suggestion():
    with pytest.raises(UnknownNameError, match="gpipe"):
        tasks_of("gpip", placed(Placement.LINE, 2), 2)


def test_placements_written_out():
    assert placed(Placement.LOOP, 2, 3).rank_of == (0, 1, 0, 1, 0, 1)
    assert placed(Placement.VEE, 3).rank_of == (0, 1, 2, 2, 1, 0)
    assert layout_of(["a", "b", "a", "b"]) == placed(Placement.LOOP, 2, 2)
    assert placed(Placement.VEE, 3).stages_of(1) == (1, 4)


def test_a_layout_or_a_count_that_does_not_fit_is_refused():
    with pytest.raises(PlanMismatchError, match="1 stages per rank in a line"):
        tasks_of("1f1b", placed(Placement.LOOP, 2, 2), 4)
    with pytest.raises(PlanMismatchError, match="multiple of 3 microbatches"):
        tasks_of("interleaved", placed(Placement.LOOP, 3, 2), 4)


@each
@given(sizes)
def test_each_task_once_on_its_own_rank(name, size):
    layout, microbatches = size.of(name)
    timetable = tasks_of(name, layout, microbatches)
    assert len(timetable) == layout.ranks
    for rank, tasks in enumerate(timetable):
        assert sorted(tasks, key=str) == sorted((Task(s, m, kind) for s in layout.stages_of(rank) for m in
                                                 range(microbatches) for kind in SCHEDULES[name].kinds), key=str)


@each
@given(sizes)
def test_tasks_can_be_dispatched_after_what_they_need(name, size):
    layout, microbatches = size.of(name)
    timetable = tasks_of(name, layout, microbatches)
    seen = set()
    for task in dispatch_order(timetable, lambda t: predecessors(t, layout.stages)):
        assert set(predecessors(task, layout.stages)) <= seen
        seen.add(task)
    assert len(seen) == sum(map(len, timetable))


def assert_held(name: str, most: int, rank: int, layout: Layout, microbatches: int) -> None:
    """Exactly what the schedule states; of ZB-V, a bound that it reaches from two rounds of microbatches on."""
    said = SCHEDULES[name].held(rank, layout, microbatches)
    assert most == said if name != "zb-v" or microbatches >= 2 * layout.ranks else most <= said


@each
@given(sizes, seconds, seconds, seconds)
def test_what_is_held_is_as_stated_whatever_the_times(name, size, forward, input_, weight):
    """Counted by walking every rank's tasks, and held against the simulation's own count per stage."""
    layout, microbatches = size.of(name)
    schedule, last = SCHEDULES[name], SCHEDULES[name].kinds[-1]
    for rank, tasks in enumerate(tasks_of(name, layout, microbatches)):
        held, most = set(), 0
        for task in tasks:
            held.add((task.stage, task.microbatch))
            most = max(most, len(held))
            if task.phase is last:
                held.remove((task.stage, task.microbatch))
        assert_held(name, most, rank, layout, microbatches)
    line = run(schedule, [uniform(forward, input_ + weight, weight)] * layout.stages, microbatches, layout=layout)
    if schedule.trains and not schedule.splits_backward:
        assert line.in_flight == in_flight(name, layout, microbatches)


@each
@given(sizes, seconds, seconds, seconds)
def test_simulated_time_equals_the_closed_form(name, size, forward, input_, weight):
    layout, microbatches = size.of(name)
    times = TaskTimes(float(forward), float(input_), float(weight))
    line = run(SCHEDULES[name], [uniform(times.forward_s, times.backward_s, times.weight_s)] * layout.stages,
               microbatches, layout=layout)
    least = layout.chunks * microbatches * (times.whole_s if SCHEDULES[name].trains else times.forward_s)
    assert line.step_time_s >= least
    said = SCHEDULES[name].step_time(layout, microbatches, times)
    if said is not None:
        assert line.step_time_s == pytest.approx(said, rel=1e-12)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "zb-v"])
def test_all_but_the_searched_patterns_have_a_closed_form(name):
    layout, microbatches = Size(4, 2, 3).of(name)
    assert SCHEDULES[name].step_time(layout, microbatches, TaskTimes(1.0, 1.0, 1.0)) is not None


def waiting_of(name: str, ranks: int, microbatches: int, times: TaskTimes) -> float:
    """Waiting of a step, in times of one microbatch on one rank; stages of a vee take half as long each."""
    layout = placed(SCHEDULES[name].placement, ranks, 2 if name == "zb-v" else 1)
    works = [uniform(times.forward_s / layout.chunks, times.backward_s / layout.chunks, times.weight_s / layout.chunks)]
    line = run(SCHEDULES[name], works * layout.stages, microbatches, layout=layout, intervals=False)
    return line.step_time_s / times.whole_s - microbatches


@pytest.mark.parametrize("ranks", [2, 3, 4, 6, 8, 13])
def test_zb_v_waits_less_than_zb_h1_and_no_more_in_longer_steps(ranks):
    """In tasks of equal length, and in those that are measured of transformers: the input gradient the longest."""
    for times in (TaskTimes(1.0, 1.0, 1.0), TaskTimes(1.0, 1.3, 0.8), TaskTimes(1.0, 1.0, 0.8)):
        short, long = (waiting_of("zb-v", ranks, n * ranks, times) for n in (3, 9))
        assert long <= short + 0.35
        assert long < waiting_of("zb-h1", ranks, 9 * ranks, times) < ranks - 1


def has_places(pattern: zb_v.Pattern, ranks: int) -> bool:
    try:
        return all(pattern.places(r, ranks) for r in range(ranks))
    except ValueError:
        return False


@pytest.mark.parametrize("ranks", range(1, 40))
def test_every_number_of_ranks_has_a_pattern(ranks):
    assert has_places(zb_v.pattern_of(ranks), ranks)


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_patterns_of_zb_v_are_the_best_of_those_searched(ranks):
    ratios = ((TaskTimes(1.0, 1.0, 1.0), 1.0), (TaskTimes(1.0, 1.3, 0.8), 1.0), (TaskTimes(1.0, 2.0, 1.0), 0.5),
              (TaskTimes(1.0, 1.0, 0.8), 1.0), (TaskTimes(1.0, 0.8, 1.3), 1.0))
    layout, microbatches = placed(Placement.VEE, ranks), 6 * ranks

    def score(pattern: zb_v.Pattern) -> float:
        schedule = replace(SCHEDULES["zb-v"], tasks=lambda layout, count: zb_v.scheduled(layout, count, pattern))
        lines = [(run(schedule, [uniform(t.forward_s, t.backward_s, t.weight_s)] * layout.stages, microbatches,
                      layout=layout, intervals=False), t, weight) for t, weight in ratios]
        return sum(weight * (line.step_time_s / t.whole_s / 2 - microbatches) for line, t, weight in lines)

    others = [zb_v.Pattern(hops, gaps, late, start)
              for hops in ((2, 2, 2, 2), (2, 1, 2, 4), (1, 3, 1, 3), (2, 2, 1, 3))
              for gaps in ((1, 1, 1), (1, 3, 1), (1, 1, 3), (3, 1, 1)) for late in (0, 1) for start in range(6)]
    fit = [p for p in others if has_places(p, ranks)]
    assert fit
    assert score(zb_v.pattern_of(ranks)) <= min(map(score, fit)) + 1e-9


@each
@given(sizes)
def test_microbatches_go_through_a_stage_in_order(name, size):
    """State is threaded from one microbatch to the next, and gradients are summed in the order of microbatches."""
    layout, microbatches = size.of(name)
    for tasks in tasks_of(name, layout, microbatches):
        for key in {(t.stage, t.phase) for t in tasks}:
            order = [t.microbatch for t in tasks if (t.stage, t.phase) == key]
            assert order == sorted(order)


@each
@given(sizes)
def test_moments_tell_the_most_of_each_and_no_more(name, size):
    """Every weight of what is held has its largest sum at one of the moments that are listed."""
    layout, microbatches = size.of(name)
    found = moments(name, layout, microbatches)
    ahead, late = in_flight(name, layout, microbatches), waiting(name, layout, microbatches)
    for rank, listed in enumerate(found):
        stages = layout.stages_of(rank)
        most = max(sum(m.in_flight) + sum(m.waiting) for m in listed)
        assert_held(name, most, rank, layout, microbatches)
        for k, stage in enumerate(stages):
            assert max(m.in_flight[k] for m in listed) == ahead[stage]
            assert max(m.waiting[k] for m in listed) == late[stage]
    if not SCHEDULES[name].splits_backward:
        assert not any(late)


def test_an_impossible_timetable_is_noticed():
    stuck = ((Task(0, 0, Kind.BACKWARD), Task(0, 0, Kind.FORWARD)),)
    with pytest.raises(ValueError, match="cannot go on"):
        list(dispatch_order(stuck, lambda t: predecessors(t, 1)))


def written(name: str, layout: Layout, microbatches: int) -> list[str]:
    """A timetable in letters: stage, kind and microbatch."""
    return [" ".join(f"{t.phase.value[0]}{t.stage}.{t.microbatch}" for t in tasks)
            for tasks in tasks_of(name, layout, microbatches)]


def test_1f1b_of_two_stages_written_out():
    """Stage 0 goes one forward ahead; stage 1 alternates from the start."""
    assert written("1f1b", placed(Placement.LINE, 2), 3) == ["f0.0 f0.1 b0.0 f0.2 b0.1 b0.2",
                                                             "f1.0 b1.0 f1.1 b1.1 f1.2 b1.2"]


def test_zb_h1_of_two_stages_written_out():
    """Stage 0 runs both gradients in turn; stage 1 puts the weight gradient off by one microbatch."""
    assert written("zb-h1", placed(Placement.LINE, 2), 3) == ["f0.0 f0.1 i0.0 w0.0 f0.2 i0.1 w0.1 i0.2 w0.2",
                                                              "f1.0 i1.0 f1.1 i1.1 w1.0 f1.2 i1.2 w1.1 w1.2"]


def test_interleaved_of_two_ranks_written_out():
    """Rank 0 does 2 · 1 + 2 = 4 forwards ahead, which are all of two microbatches."""
    assert written("interleaved", placed(Placement.LOOP, 2, 2), 2) == ["f0.0 f0.1 f2.0 f2.1 b2.0 b2.1 b0.0 b0.1",
                                                                       "f1.0 f1.1 f3.0 b3.0 f3.1 b3.1 b1.0 b1.1"]


def test_moments_of_a_split_backward_written_out():
    """Stage 1 of 2 under ZB-H1: one microbatch in flight and one that waits, or two that wait."""
    assert moments("zb-h1", placed(Placement.LINE, 2), 3)[1] == (Moment((0,), (2,)), Moment((1,), (1,)))
