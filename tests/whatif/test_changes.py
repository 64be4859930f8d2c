from dataclasses import replace

import pytest

import planner
from planner.report.tables import plain
from planner.whatif import changes
from planner.whatif.changes import BATCH, CHOICE, MACHINE, what_if
from planner.whatif.pins import pins_of
from planner.whatif.words import answers_table
from tests.intraop.programs import mlp
from tests.joint.products import chained

TWO = planner.cluster("p3.16xlarge", nodes=2, devices_per_node=1)


@pytest.fixture(scope="module")
def plan():
    return planner.plan(mlp(batch=16), TWO)


def test_better_machines_are_never_slower_and_other_choices_never_faster(plan):
    answers = {a.change: a for a in what_if(plan.record, mlp(batch=16), mlp(batch=32))}
    assert {a.kind for a in answers.values()} == {MACHINE, BATCH, CHOICE}
    assert {"25 % more memory", "twice the memory", "twice the bandwidth between nodes", "a batch twice as large",
            "devices that compute twice as fast"} <= set(answers)
    for a in answers.values():
        assert a.step_time_s is not None, a
        if a.kind == MACHINE:
            assert 1 - 1e-9 <= a.speedup <= 2 + 1e-9, a
        if a.kind == CHOICE:
            assert a.speedup <= 1 + 1e-9, a
    assert answers["devices that compute twice as fast"].speedup > 1
    text = plain(answers_table(plan.record, list(answers.values())), 100)
    assert "twice the memory" in text and "as planned" in text


def test_rewrites_of_a_plan_are_kept_where_they_pay():
    plan = planner.plan(chained(), TWO, microbatches=1, rewrite="joint", allow=("reassociate_right",))
    assert plan.record.rewrites
    answers = {a.change: a for a in what_if(plan.record, chained())}
    for change, a in answers.items():
        assert a.speedup > 1 - 1e-9 if a.kind == MACHINE else a.speedup < 1 + 1e-9, change
    asked = {"microbatches": 1, "rewrites": (("reassociate_right", "down, up"),)}
    worse = planner.plan(chained(), TWO, **asked)
    assert worse.step_time_s > plan.step_time_s, "what is asked for is not left out where it does not pay"
    same = next(a for a in what_if(worse.record, chained()) if a.change == "25 % more memory")
    assert same.step_time_s == pytest.approx(worse.step_time_s)


def test_interrupted_it_returns_what_it_has(plan, monkeypatch):
    real, calls = changes.plan_any, []

    def then_stop(request):
        calls.append(request)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(request)

    monkeypatch.setattr(changes, "plan_any", then_stop)
    assert len(what_if(plan.record, mlp(batch=16))) == 2


def test_what_finds_no_plan_says_why(plan):
    """A plan that is pinned to a microbatch count keeps it: nothing is asked of other counts."""
    tiny = replace(plan.record, cluster=replace(TWO, device=replace(TWO.device, memory_bytes=1000)))
    answers = what_if(tiny, mlp(batch=16))
    assert all(a.step_time_s is None and "needs at least" in a.reason for a in answers if a.kind == MACHINE)


def test_pins_are_read_back():
    pins = planner.Pins(stages=2, boundaries=(1,), mesh_axes=(("data", 2),), recompute="all", recipe="data",
                        params=(("a/*", (None, ("x", "y"))),))
    record = replace(planner.plan(mlp(batch=16), TWO, microbatches=1).record, pins=pins.describe())
    assert pins_of(record) == pins
    assert pins_of(replace(record, pins=planner.Pins(recompute=True).describe())) == planner.Pins(recompute=True)
