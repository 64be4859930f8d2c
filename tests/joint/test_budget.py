"""One budget for all of it: the plan without rewrites comes first, then looking for them, then planning once more."""

import time

import pytest

import planner
from planner.core.pins import Pins
from planner.joint.looking import PHASE, Task
from planner.joint.plan import NO_TIME
from planner.phases import Phases
from planner.request import Request, deadline_after
from tests.joint.products import chained

ON = planner.cluster("dgx-h100")


def task(deadline: float, budget_s: float, planning_s: float, spent_s: float = 0.0) -> Task:
    phases = Phases({PHASE: spent_s})
    request = Request(lambda *_: pytest.fail("traced"), "m", "train", 8, ON, Pins(), "0", deadline=deadline,
                      phases=phases)
    return Task(request, (), budget_s, planning_s)


@pytest.mark.parametrize(("left_s", "budget_s", "planning_s", "spent_s", "looking_s"), [
    (float("inf"), 30.0, 5.0, 0.0, 30.0), (float("inf"), 30.0, 5.0, 12.0, 18.0), (100.0, float("inf"), 20.0, 0.0, 80.0),
    (100.0, float("inf"), 70.0, 0.0, 50.0), (100.0, 30.0, 20.0, 0.0, 30.0), (-2.0, float("inf"), 20.0, 0.0, -1.0)])
def test_what_planning_takes_is_left_for_it(left_s: float, budget_s: float, planning_s: float, spent_s: float,
                                            looking_s: float) -> None:
    found = task(time.perf_counter() + left_s, budget_s, planning_s, spent_s)
    assert found.left_s == pytest.approx(looking_s, abs=0.5)


def test_a_deadline_is_as_far_away_as_the_budget() -> None:
    assert deadline_after(None) == float("inf")
    assert deadline_after(5.0) == pytest.approx(time.perf_counter() + 5.0, abs=0.5)


def test_without_time_for_rewrites_the_plan_without_says_so() -> None:
    plain = planner.plan(chained(), ON, stages=1, cache=False, budget_s=0.0)
    joint = planner.plan(chained(), ON, stages=1, cache=False, budget_s=0.0, rewrite="joint")
    assert joint.record.warnings == (*plain.record.warnings, NO_TIME) and not joint.record.rewrites
    assert joint.step_time_s == plain.step_time_s
    assert planner.plan(chained(), ON, stages=1, cache=False, budget_s=60.0, rewrite="joint",
                        allow=("reassociate_right",)).record.rewrites
