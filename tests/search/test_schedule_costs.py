"""What a plan says of the schedules it does not use."""

import pytest

import planner
from planner.core.plan_io import from_json, to_json
from planner.schedules import SCHEDULES
from tests.intraop.programs import transformer

V100 = planner.cluster("p3.16xlarge", devices_per_node=4)
TRAINING = {n for n in SCHEDULES if SCHEDULES[n].trains}


def test_every_schedule_is_priced_or_says_why_not_and_the_plans_own_is_the_best_that_fits():
    plan = planner.plan(transformer(4), V100, stages=4, microbatches=4)
    costs = {c.name: c for c in plan.record.schedules}
    assert set(costs) == TRAINING
    mine = costs[plan.schedule]
    assert mine.step_time_s == plan.step_time_s and mine.fits
    assert all(c.step_time_s >= mine.step_time_s for c in costs.values() if c.fits and c.step_time_s is not None)
    assert costs["gpipe"].step_time_s >= costs["1f1b"].step_time_s > mine.step_time_s
    assert costs["gpipe"].peak_bytes > costs["1f1b"].peak_bytes
    assert costs["1f1b"].bubble > mine.bubble
    assert all(c.step_time_s or c.note for c in costs.values())
    assert from_json(to_json(plan.record)).schedules == plan.record.schedules


def test_the_explanation_has_a_line_for_each():
    plan = planner.plan(transformer(4), V100, stages=4, microbatches=4)
    text = " ".join(plan.explain().split())
    assert f"{plan.schedule} was chosen, the fastest found that fits" in text
    assert all(f"- {name}: " in text for name in TRAINING - {plan.schedule})


@pytest.mark.parametrize("name", ["1f1b", "zb-v"])
def test_a_pinned_schedule_is_used_and_said_to_be_asked_for(name):
    plan = planner.plan(transformer(4), V100, stages=4, microbatches=4, schedule=name)
    assert plan.schedule == name
    assert f"{name} was chosen, as you asked" in " ".join(plan.explain().split())


def test_a_pinned_schedule_of_several_stages_per_rank_makes_a_pipeline_whatever_is_faster():
    plan = planner.plan(transformer(4), V100, schedule="interleaved", microbatches=4)
    assert plan.schedule == "interleaved" and plan.record.layout.chunks >= 2
    more = planner.plan(transformer(4), V100, chunks=2, microbatches=4)
    assert more.schedule in ("interleaved", "zb-v") and more.record.layout.chunks == 2
