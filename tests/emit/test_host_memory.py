"""What is moved around the tasks of a pipeline: all comes back in time, and little is on the devices at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.layout import layout_of, placed
from planner.emit.host_memory import ROOM, host_moves
from planner.schedules import SCHEDULES, Kind, dispatch_order, predecessors, tasks_of

TRAINING = sorted(name for name in SCHEDULES if SCHEDULES[name].trains)


def walked(name, ranks, microbatches):
    """Per task of every rank: the microbatches whose values are on its devices while it runs."""
    layout = placed(SCHEDULES[name].placement, ranks, SCHEDULES[name].chunks[0])
    timetable = tasks_of(name, layout, microbatches)
    order = tuple(dispatch_order(timetable, lambda t: predecessors(t, layout.stages)))
    moves = host_moves(order, layout, [True] * layout.stages)
    for tasks in timetable:
        here, leaving, gone = set(), [], set()
        for n, task in enumerate(tasks):
            own, mine = (task.stage, task.microbatch), moves.get(task)
            if mine is not None:
                if mine.wait is not None:
                    leaving = leaving[max(0, len(leaving) - mine.wait):]
                for key in mine.fetch:
                    gone.remove(key)
                    here.add(key)
            assert own not in gone
            here.add(own)
            yield task, here | set(leaving)
            if mine is not None and mine.send:
                here.remove(own)
                leaving.append(own)
                gone.add(own)
            if task.phase is not Kind.FORWARD and not any((t.stage, t.microbatch) == own for t in tasks[n + 1:]):
                here.remove(own)
        assert not gone


@pytest.mark.parametrize("name", ["1f1b", "gpipe"])
@given(stages=st.integers(2, 5), microbatches=st.integers(1, 12))
def test_two_microbatches_are_on_the_devices_at_most(name, stages, microbatches):
    assert max(len(here) for _, here in walked(name, stages, microbatches)) <= ROOM


@pytest.mark.parametrize("name", TRAINING)
def test_all_comes_back_under_every_schedule(name):
    list(walked(name, 4, 8))


def test_nothing_moves_where_nothing_is_away():
    layout = layout_of(range(3))
    order = tuple(dispatch_order(tasks_of("1f1b", layout, 4), lambda t: predecessors(t, 3)))
    assert host_moves(order, layout, [False] * 3) == {}
    some = host_moves(order, layout, [True, False, False])
    assert {t.stage for t in some} == {0}
